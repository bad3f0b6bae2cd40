"use strict";
/* new cap2im.Vocabulary(fields, characters): the words of a model, as cap2im.data.vocabulary reads them. fields: those of Python's
   Vocabulary; characters: the classes and replacements of cap2im.data.tokenizer.character_tables. */
cap2im.Vocabulary = (() => {
  const longestCaption = 200, longestCompared = 50, shortWord = 3, listed = 5; // words, letters, letters, unknown words that a message lists
  const mostMarks = 30; // combining marks in a row
  const shortened = (text) => ([...text].length <= 60 ? text : `${[...text].slice(0, 57).join("")}...`);
  const special = /^<[^<>]+>$/;
  const withFullStop = (words) => (words.length === 0 || words.at(-1) === "." ? words : [...words, "."]);
  const isASCII = (text) => /^[\0-\x7f]*$/.test(text);

  /* The edits between two words, as arrays of letters: insertions, deletions, substitutions, swaps of neighbours (optimal string alignment). */
  function edits(one, other) {
    let before = [], last = [], row = other.map((_, n) => n + 1);
    row.unshift(0);
    for (let i = 1; i <= one.length; i++) {
      [before, last, row] = [last, row, [i]];
      for (let j = 1; j <= other.length; j++) {
        row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (one[i - 1] === other[j - 1] ? 0 : 1));
        if (i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1]) row[j] = Math.min(row[j], before[j - 2] + 1);
      }
    }
    return row[other.length];
  }

  return class Vocabulary {
    constructor({ words, aliases, tokens, unknown = null }, characters) {
      Object.assign(this, { tokens, characters });
      this.numbers = new Map(words.map((word, number) => [word, number]));
      for (const [alias, word] of Object.entries(aliases)) this.numbers.set(alias, this.numbers.get(word));
      this.plain = new Set([...this.numbers.keys()].filter((word) => word !== unknown && !special.test(word)));
      const { word, space, mark, dropped, ideograph, unspaced, punctuation } = characters;
      const pattern = (text, flags = "gu") => new RegExp(text, flags);
      const letters = `[${word}${mark}]`, letter = `(?![${ideograph}])[${word}]`, plain = `(?:${letter}|[${mark}])`, joiner = "['\\u00b7\\u05f3\\u05f4\\-]";
      const sign = `[^${word}${space}]`;
      this.patterns = {
        withoutMarks: pattern(`[${word}]+(?:['\\-][${word}]+)*|${sign}`),
        coarse: pattern(`[${word}]${letters}*(?:${joiner}[${word}]${letters}*)*|${sign}`),
        fine: pattern(`[${ideograph}][${mark}]*|${letter}${plain}*(?:${joiner}${letter}${plain}*)*|${sign}`),
        runs: pattern(`[${word}]+`),
        spaces: pattern(`[${space}]+`),
        dropped: pattern(`[${dropped}]`),
        marks: pattern(`([${mark}]{${mostMarks}})[${mark}]+`),
        separator: pattern(`(?<=[${unspaced}])\\u200b+(?=[${unspaced}])`),
        replaced: pattern(`[${Object.keys(characters.replaced).map((each) => `\\u{${each.codePointAt(0).toString(16)}}`).join("")}]`),
        begins: pattern(`^[${word}]`, "u"),
        punctuation: pattern(`^[${punctuation}]*$`, "u"),
      };
      this.spellings = new Map(); // normalised word -> spelling in vocabularies of earlier versions
      for (const each of this.plain) {
        const normalised = isASCII(each) ? each : this.normalise(each);
        if (!this.numbers.has(normalised) && !this.spellings.has(normalised)) this.spellings.set(normalised, each);
      }
    }

    /* A caption in the form in which words are compared. */
    normalise(caption) {
      if (/^[\x20-\x7e]*$/.test(caption)) return caption.toLowerCase();
      const { separator, dropped, replaced, marks } = this.patterns;
      const translated = (text) => text.replace(dropped, "").replace(replaced, (each) => this.characters.replaced[each]);
      const text = translated(caption.replace(separator, " ")).replace(marks, "$1").normalize("NFC");
      return translated(text).toLowerCase().normalize("NFC"); // NFC turns some letters into quotes
    }

    /* The words of a caption in the spelling of this vocabulary. */
    split(caption) {
      const text = this.normalise(caption);
      const words = this.tokens === "attngan" ? this.#splitRuns(text) : this.#splitReleased(text);
      return words.map((word) => this.spellings.get(word) ?? word);
    }

    #splitRuns(text) {
      const runs = text.match(this.patterns.runs) ?? [];
      return runs.map((run) => run.replace(/[^\0-\x7f]/g, "")).filter((word) => word !== "");
    }

    #splitReleased(text) {
      const isWritten = (word) => this.plain.has(word) || this.spellings.has(word);
      const pieces = text.split(this.patterns.spaces).filter((piece) => piece !== "");
      return withFullStop(pieces.flatMap((piece) => (isWritten(piece) ? [piece] : this.#splitKnown(piece, isWritten))));
    }

    /* Splits text without spaces, and keeps known words whole. */
    #splitKnown(piece, isWritten) {
      const { withoutMarks, coarse, fine } = this.patterns;
      if (isASCII(piece)) return piece.match(withoutMarks) ?? [];
      return (piece.match(coarse) ?? []).flatMap((word) => {
        if (isASCII(word) || isWritten(word)) return [word];
        const parts = word.match(fine) ?? [];
        const readings = [parts, ...["NFC", "NFD"].map((form) => word.normalize(form).match(withoutMarks) ?? [])];
        return readings.find((reading) => reading.every(isWritten)) ?? parts;
      });
    }

    /* The unknown words of a caption, each once; unknown punctuation does not count. */
    unknownWords(words) {
      return [...new Set(words)].filter((word) => !this.numbers.has(word) && !this.patterns.punctuation.test(word));
    }

    /* The known words with the most similar spelling, most similar first, then of the same letters, then most frequent first. */
    nearest(word, count = 3) {
      const typed = [...word], letters = [...typed].sort().join("");
      if (typed.length > longestCompared) return [];
      return [...this.plain]
        .map((known) => {
          const other = [...known], most = Math.max(typed.length, other.length);
          const possible = Math.abs(typed.length - other.length) <= most / 2;
          return { known, similarity: possible ? 1 - edits(typed, other) / most : 0, same: [...other].sort().join("") === letters };
        })
        .filter(({ known, similarity, same }) => similarity >= 0.5 && (typed.length > shortWord || same || (typed.length === shortWord && known.startsWith(typed[0]))))
        .sort((a, b) => b.similarity - a.similarity || b.same - a.same) // is stable
        .slice(0, count).map(({ known }) => known);
    }

    /* {words, numbers} of a caption. Throws an Error with the reason if it has unknown words (unless `skip`), no words or too many. */
    encode(caption, most, skip) {
      const shown = `caption '${shortened(caption)}'`, words = this.split(caption), known = words.filter((word) => this.numbers.has(word));
      const unknown = skip ? [] : this.unknownWords(words), isWord = (word) => this.patterns.begins.test(word);
      if (!words.some(isWord)) throw new Error(caption.trim() === "" ? "a caption is empty" : `${shown} has no words`);
      if (words.length > longestCaption) throw new Error(`${shown} has ${words.length} words; at most ${longestCaption} are allowed`);
      if (unknown.length) {
        const described = unknown.slice(0, listed).map((word) => {
          const near = this.nearest(word);
          return `unknown word '${shortened(word)}'${near.length ? ` (nearest known: ${near.join(", ")})` : ""}`;
        });
        throw new Error(`${shown}: ${described.join("; ")}${unknown.length > listed ? `; and ${unknown.length - listed} unknown words more` : ""}`);
      }
      if (!known.some(isWord)) throw new Error(`${shown} has no known word`);
      if (known.length > most) throw new Error(`${shown} has ${known.length} words; this page reads ${most}`);
      return { words: known, numbers: known.map((word) => this.numbers.get(word)) };
    }
  };
})();
