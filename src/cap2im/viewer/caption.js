"use strict";
/* cap2im.CaptionBox: a box for a caption. It completes words that the model knows and marks those that it does not. */
cap2im.CaptionBox = (() => {
  const make = (tag, text = "", className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
  const pause = 180; // milliseconds without a key until the caption is read
  const shown = 6; // suggestions
  const beginning = /[\p{L}\p{N}][\p{L}\p{N}\p{M}'’-]*$/u; // of a word, before the caret
  const escaped = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

  /* The form in which words are compared. */
  const normalised = (text) => text.normalize("NFC").replace(/[\p{Cf}\p{Me}\p{Variation_Selector}]/gu, "").normalize("NFC")
    .replace(/[\uff01-\uff5e\ufb00-\ufb06]/g, (letter) => letter.normalize("NFKC"))
    .replace(/[‘’‚‛ʻʼ′´]/g, "'").replace(/[“”„‟«»″]/g, '"').replace(/[‐‑−﹣]/g, "-").toLowerCase();

  /* Where a normalised word stands in a text as it was typed: [{from, to}]. Chinese and Japanese words stand beside others. */
  function occurrences(text, word) {
    const starts = []; // of each unit of the normalised text, in the text
    let plain = "";
    for (const { 0: cluster, index } of text.matchAll(/\P{M}?[\p{M}\p{Cf}]*/gu)) {
      const unit = normalised(cluster);
      starts.push(...Array(unit.length).fill(index));
      plain += unit;
    }
    starts.push(text.length);
    const apart = !/^[\p{sc=Han}\p{sc=Hiragana}]/u.test(word);
    const [before, after] = apart ? ["(?<![\\p{L}\\p{N}\\p{M}])", "(?![\\p{L}\\p{N}\\p{M}])"] : ["", ""];
    return [...plain.matchAll(new RegExp(`${before}${escaped(word)}${after}`, "giu"))]
      .map((found) => ({ from: starts[found.index], to: starts[found.index + found[0].length] }));
  }

  /* read(caption, signal): answers {words, unknown: [{word, nearest}]}, or throws; vocabulary(): known words, most usual first;
     examples(): captions, offered while the box is empty. */
  return class CaptionBox {
    #read; #vocabulary; #examples;
    #unknownWords = []; // [{word, nearest}] of what was read last
    #items = []; #whole = false; #active = -1; // suggestions, whether they are whole captions, which one is marked
    #timer = null; #reading = null;

    constructor(root, { id, label, read, vocabulary, examples }) {
      [this.#read, this.#vocabulary, this.#examples] = [read, vocabulary, examples];
      this.root = root;
      root.innerHTML = `
        <label for="${id}"></label>
        <div class="field">
          <div class="mirror" aria-hidden="true"></div>
          <textarea id="${id}" rows="1" spellcheck="false" autocomplete="off" autocapitalize="off" enterkeyhint="go" aria-autocomplete="list"
            aria-controls="${id}-list" aria-describedby="${id}-unknown-words"></textarea>
          <ul id="${id}-list" class="list" role="listbox" aria-label="Suggestions" hidden></ul>
        </div>
        <div id="${id}-unknown-words" class="unknown-words"></div>
        <p class="unseen" role="status"></p>`;
      root.querySelector("label").textContent = label;
      root.querySelector("textarea").placeholder = "Caption";
      [this.input, this.mirror, this.list, this.told, this.spoken] =
        ["textarea", ".mirror", ".list", ".unknown-words", ".unseen"].map((name) => root.querySelector(name));
      this.input.addEventListener("input", () => this.#typed());
      this.input.addEventListener("keydown", (event) => this.#key(event));
      this.input.addEventListener("click", () => this.#suggest());
      this.input.addEventListener("blur", () => this.#close());
      this.list.addEventListener("pointerdown", (event) => event.preventDefault()); // the box keeps the focus
      this.list.addEventListener("click", (event) => {
        const option = event.target.closest("[role=option]");
        if (option !== null) this.#accept([...this.list.children].indexOf(option));
      });
      this.#mark();
    }

    get value() {
      return this.input.value.trim();
    }

    set value(text) {
      this.input.value = text;
      this.#close();
      this.check();
    }

    limit(characters) {
      this.input.maxLength = characters;
    }

    /* For a model of other words. */
    renew() {
      this.check();
      if (this.input.value !== "") this.#suggest();
    }

    /* Reads the caption again, at once; answers whether a word of it is unknown. */
    async check() {
      clearTimeout(this.#timer);
      this.#reading?.abort();
      this.#mark();
      const reading = this.#reading = new AbortController();
      let unknown = [];
      if (this.value !== "") {
        try {
          ({ unknown } = await this.#read(this.value, reading.signal));
        } catch {
          unknown = []; // drawing it says in words what is wrong
        }
      }
      if (reading.signal.aborted) return false;
      this.#unknownWords = unknown;
      this.#mark();
      return unknown.length > 0;
    }

    #typed() {
      if (/\s*\n\s*/.test(this.input.value)) this.input.value = this.input.value.replace(/\s*\n\s*/g, " "); // pasted
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.check(), pause);
      this.#mark();
      this.#suggest();
    }

    /* The beginning of a word that the caret stands behind, or "". */
    #begun() {
      const { value, selectionStart, selectionEnd } = this.input;
      if (document.activeElement !== this.input || selectionStart !== selectionEnd || /^[\p{L}\p{N}]/u.test(value.slice(selectionEnd))) return "";
      return beginning.exec(value.slice(0, selectionStart))?.[0] ?? "";
    }

    // Words that the model does not know

    #mark() {
      const { value, selectionStart } = this.input;
      const begun = this.#begun(), start = selectionStart - begun.length;
      const unfinished = begun !== "" && this.#vocabulary().some((word) => word.toLowerCase().startsWith(normalised(begun)));
      const spans = this.#unknownWords.flatMap(({ word }) => occurrences(value, word).map((found) => ({ ...found, word })))
        .map((found) => ({ ...found, name: found.from === start ? "unknown begun" : "unknown" }))
        .filter(({ from }) => !(unfinished && from === start));
      const marked = new Set(spans.map(({ word }) => word));
      if (begun !== "" && !spans.some(({ from }) => from === start)) spans.push({ from: start, to: selectionStart, name: "begun" });
      spans.sort((a, b) => a.from - b.from);
      const pieces = [];
      let from = 0;
      for (const span of spans) {
        pieces.push(value.slice(from, span.from), make("span", value.slice(span.from, span.to), span.name));
        from = span.to;
      }
      this.mirror.replaceChildren(...pieces, `${value.slice(from)}\u200b`);
      const told = this.#unknownWords.filter(({ word }) => marked.has(word));
      if (this.told.dataset.words === JSON.stringify(told)) return; // so that nobody's click meets another button
      this.told.dataset.words = JSON.stringify(told);
      this.told.replaceChildren(...told.map((each) => this.#unknownWord(each)));
      this.input.setAttribute("aria-invalid", told.length > 0);
      if (!this.list.hidden) this.#place();
    }

    #unknownWord({ word, nearest }) {
      const line = make("p");
      const offer = (text, replacement) => {
        const button = Object.assign(make("button", text), { type: "button" });
        button.addEventListener("click", () => this.#replace(word, replacement));
        return button;
      };
      line.append(make("b", word), nearest.length ? " is not a word that the model knows. Nearest: " : " is not a word that the model knows. ");
      line.append(...nearest.map((known) => offer(known, known)), offer("Leave it out", ""));
      return line;
    }

    #replace(word, replacement) {
      let changed = this.input.value;
      for (const { from, to } of occurrences(changed, word).reverse()) changed = changed.slice(0, from) + replacement + changed.slice(to);
      this.input.value = replacement === "" ? changed.replace(/ {2,}/g, " ").trim() : changed;
      this.input.focus();
      this.check();
    }

    // Suggestions

    #suggest() {
      const begun = normalised(this.#begun());
      this.#whole = this.input.value === "" && document.activeElement === this.input;
      if (this.#whole) this.#items = this.#examples();
      else if (begun === "") this.#items = [];
      else this.#items = this.#vocabulary().filter((word) => word.toLowerCase().startsWith(begun) && word.length > begun.length);
      this.#items = this.#items.slice(0, shown);
      this.#active = -1;
      if (!this.#items.length) {
        this.#close();
        return;
      }
      this.list.replaceChildren(...this.#items.map((item, index) => {
        const option = make("li");
        option.role = "option";
        option.id = `${this.list.id}-${index}`;
        const known = this.#whole ? 0 : begun.length;
        option.append(make("b", item.slice(0, known)), item.slice(known));
        return option;
      }));
      this.list.hidden = false;
      this.#mark();
      this.#place();
      this.spoken.textContent = `${this.#items.length} suggestion${this.#items.length > 1 ? "s" : ""}: ${this.#items.join(", ")}`;
      this.#activate(-1);
    }

    /* The list hangs below what is completed, and below what is told of unknown words, which can be read and clicked beside it. */
    #place() {
      const word = this.mirror.querySelector(".begun"), field = this.list.parentElement;
      const room = field.clientWidth - this.list.offsetWidth;
      const below = word === null ? this.mirror.offsetHeight : word.offsetTop + word.offsetHeight + 16;
      const told = this.told.childElementCount ? this.told.offsetTop + this.told.offsetHeight + 6 - field.offsetTop : 0;
      this.list.style.left = `${Math.max(0, Math.min(room, (word?.offsetLeft ?? 0) - 14))}px`;
      this.list.style.top = `${Math.max(below, told)}px`;
    }

    #activate(index) {
      this.#active = index;
      [...this.list.children].forEach((option, n) => option.setAttribute("aria-selected", n === index));
      if (index < 0) this.input.removeAttribute("aria-activedescendant");
      else this.input.setAttribute("aria-activedescendant", this.list.children[index].id);
    }

    #close() {
      this.list.hidden = true;
      this.#items = [];
      this.#active = -1;
      this.spoken.textContent = "";
      this.input.removeAttribute("aria-activedescendant");
    }

    #accept(index) {
      const item = this.#items[index];
      if (this.#whole) {
        this.input.value = item;
      } else {
        const { value, selectionStart } = this.input, rest = value.slice(selectionStart);
        const completed = `${value.slice(0, selectionStart - this.#begun().length)}${item}${/^[\s.,;:!?]/.test(rest) ? "" : " "}`;
        this.input.value = completed + rest;
        this.input.setSelectionRange(completed.length, completed.length);
      }
      this.#close();
      this.check();
    }

    #key(event) {
      if (event.isComposing) return;
      const count = this.#items.length, marked = this.#active >= 0;
      const known = () => this.#vocabulary().includes(normalised(this.#begun()));
      if (event.key === "ArrowDown" && count) this.#activate((this.#active + 1) % count);
      else if (event.key === "ArrowUp" && count) this.#activate(marked ? this.#active - 1 : count - 1);
      else if (event.key === "ArrowDown" && this.input.value === "") this.#suggest();
      else if (event.key === "Escape" && count) this.#close();
      else if (event.key === "Enter" && marked) this.#accept(this.#active);
      else if (event.key === "Tab" && !event.shiftKey && (marked || (count && !this.#whole && !known()))) this.#accept(Math.max(0, this.#active));
      else if (event.key === "Enter") {
        this.#close();
        this.input.form.requestSubmit();
      }
      else return;
      event.preventDefault();
    }
  }
})();
