"""The card of a prepared dataset, in the form of the Hugging Face hub."""

from __future__ import annotations

from cap2im.data.manifest import WrittenManifest
from cap2im.files import shortened
from cap2im.hub import licence_lines


def dataset_card(manifest: WrittenManifest) -> str:
    """Return the README.md of a dataset: YAML header, table of splits, licence."""
    files = "".join(f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in manifest.splits)
    rows = "".join(f"| {split} | {counts.images:,} | {counts.captions:,} |\n" for split, counts in manifest.splits.items())
    title, licence = (shortened(" ".join((text or "").split()), 200) for text in (manifest.title, manifest.licence))
    return (
        f"---\n{licence_lines(licence)}"
        f"task_categories:\n- text-to-image\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n\n"
        f"# {title or 'Captioned images'}\n\n"
        f"Made by `cap2im prepare` {manifest.version} from a source of kind `{manifest.source['kind']}`: side {manifest.side}, "
        f"fit {manifest.fit}, stored as {manifest.stored}.\n\n| split | images | captions |\n| --- | --- | --- |\n{rows}"
        f"\nLicence: {licence or 'not known'}.\n"
    )
