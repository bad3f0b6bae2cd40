"use strict";
/* cap2im.png, cap2im.gif, cap2im.dataURI: files of pictures, as cap2im.rendering.images and cap2im.rendering.gif write them.
   A picture is {width, height, colours: 1 or 3, data: Uint8Array of height x width x colours}. */
(() => {
  const playSeconds = 3.2, pauseMilliseconds = 2000; // of an animation, and of its last frame
  const tileSide = 240; // pixels; smaller frames are enlarged up to this side
  const write = [240, 90, 40]; // colour of the write window
  const latin = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));

  function concatenate(parts) {
    const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }

  /* Enlarges every pixel to scale x scale. */
  function enlarge({ width, height, colours, data }, scale) {
    if (scale === 1) return { width, height, colours, data };
    const large = new Uint8Array(width * height * scale * scale * colours), line = width * scale * colours;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width * scale; x++) {
        const from = (y * width + Math.floor(x / scale)) * colours;
        for (let c = 0; c < colours; c++) large[y * scale * line + x * colours + c] = data[from + c];
      }
      for (let copy = 1; copy < scale; copy++) large.copyWithin((y * scale + copy) * line, y * scale * line, (y * scale + 1) * line);
    }
    return { width: width * scale, height: height * scale, colours, data: large };
  }

  // PNG (https://www.w3.org/TR/png-3/)

  const remainders = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  const crc32 = (bytes) => ~bytes.reduce((crc, byte) => remainders[(crc ^ byte) & 255] ^ (crc >>> 8), -1) >>> 0;
  const word = (number) => [number >>> 24, (number >>> 16) & 255, (number >>> 8) & 255, number & 255];

  function chunk(type, data) {
    const body = concatenate([latin(type), data]);
    return concatenate([word(data.length), body, word(crc32(body))]);
  }

  function textChunk(key, text) {
    if (/^[\0-\xff]*$/.test(text)) return chunk("tEXt", latin(`${key}\0${text}`));
    return chunk("iTXt", concatenate([latin(`${key}\0\0\0\0\0`), new TextEncoder().encode(text)]));
  }

  async function png(picture, text = {}) {
    const { width, height, colours, data } = picture, line = width * colours;
    const lines = new Uint8Array(height * (line + 1)); // each begins with its filter: 0, none
    for (let y = 0; y < height; y++) lines.set(data.subarray(y * line, (y + 1) * line), y * (line + 1) + 1);
    const packed = new Response(new Response(lines).body.pipeThrough(new CompressionStream("deflate")));
    return concatenate([
      [137, 80, 78, 71, 13, 10, 26, 10],
      chunk("IHDR", [...word(width), ...word(height), 8, colours === 1 ? 0 : 2, 0, 0, 0]),
      ...Object.entries(text).map(([key, value]) => textChunk(key, String(value))),
      chunk("IDAT", new Uint8Array(await packed.arrayBuffer())),
      chunk("IEND", []),
    ]);
  }

  function dataURI(bytes, type) {
    let text = "";
    for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
    return `data:image/${type};base64,${btoa(text)}`;
  }

  // GIF (https://www.w3.org/Graphics/GIF/spec-gif89a.txt)

  const short = (number) => [number & 255, number >>> 8];

  function blocks(bytes) {
    const parts = [];
    for (let at = 0; at < bytes.length; at += 255) parts.push([Math.min(255, bytes.length - at)], bytes.subarray(at, at + 255));
    return concatenate([...parts, [0]]);
  }

  /* Compresses numbers of colours (LZW with codes of 9 to 12 bits). */
  function compressed(numbers) {
    const clear = 256, end = 257, bytes = [];
    let codes = new Map(), bits = 9, kept = 0, count = 0;
    const put = (code) => {
      kept |= code << count;
      for (count += bits; count >= 8; count -= 8) {
        bytes.push(kept & 255);
        kept >>>= 8;
      }
    };
    put(clear);
    let prefix = numbers[0];
    for (let n = 1; n < numbers.length; n++) {
      const key = (prefix << 8) | numbers[n], code = codes.get(key);
      if (code !== undefined) {
        prefix = code;
        continue;
      }
      put(prefix);
      prefix = numbers[n];
      const next = codes.size + 258;
      if (next < 4096) {
        codes.set(key, next);
        if (next === 2 ** bits) bits++;
      } else {
        put(clear);
        [codes, bits] = [new Map(), 9];
      }
    }
    put(prefix);
    if (codes.size + 258 === 2 ** bits && bits < 12) bits++; // the decoder has one more code than was added here
    put(end);
    if (count > 0) bytes.push(kept & 255);
    return Uint8Array.from(bytes);
  }

  /* At most `most` colours for pixels of three colours, by median cut: {palette, numbers: of the pixels}. */
  function quantised(data, most) {
    const pixels = new Map(); // colour -> number of pixels
    for (let at = 0; at < data.length; at += 3) {
      const colour = (data[at] << 16) | (data[at + 1] << 8) | data[at + 2];
      pixels.set(colour, (pixels.get(colour) ?? 0) + 1);
    }
    const channel = (colour, c) => (colour >> (16 - 8 * c)) & 255;
    const measured = (colours) => {
      const spreads = [0, 1, 2].map((c) => {
        const levels = colours.map((colour) => channel(colour, c));
        return Math.max(...levels) - Math.min(...levels);
      });
      const widest = spreads.indexOf(Math.max(...spreads));
      return { colours, widest, spread: spreads[widest] };
    };
    const boxes = [measured([...pixels.keys()])];
    while (boxes.length < most) {
      const largest = boxes.reduce((best, box, index) => (box.spread > boxes[best].spread ? index : best), 0);
      const { colours, widest, spread } = boxes[largest];
      if (spread === 0) break; // each box has one colour
      colours.sort((a, b) => channel(a, widest) - channel(b, widest));
      const half = colours.reduce((sum, colour) => sum + pixels.get(colour), 0) / 2;
      let cut = 0;
      for (let sum = 0; sum < half && cut < colours.length - 1; cut++) sum += pixels.get(colours[cut]);
      boxes.splice(largest, 1, measured(colours.slice(0, cut)), measured(colours.slice(cut)));
    }
    const palette = [], numbers = new Map();
    boxes.forEach(({ colours }, number) => {
      const total = colours.reduce((sum, colour) => sum + pixels.get(colour), 0);
      for (const c of [0, 1, 2]) palette.push(Math.round(colours.reduce((sum, colour) => sum + pixels.get(colour) * channel(colour, c), 0) / total));
      for (const colour of colours) numbers.set(colour, number);
    });
    return { palette, numbers: Uint8Array.from({ length: data.length / 3 }, (_, n) => numbers.get((data[3 * n] << 16) | (data[3 * n + 1] << 8) | data[3 * n + 2])) };
  }

  /* Frames as numbers of colours: {palette, numbers, outline: the number of the write window's colour}. */
  function coloured(pictures) {
    if (pictures[0].colours === 3) {
      return pictures.map(({ data }) => {
        const { palette, numbers } = quantised(data, 254);
        const padded = [...palette, ...Array(768 - 6 - palette.length).fill(0), ...write, 255, 255, 255];
        return { palette: padded, numbers, outline: 254 };
      });
    }
    const counts = new Uint32Array(256); // the outline takes the place of the rarest level, which becomes the next one
    for (const { data } of pictures) for (const level of data) counts[level]++;
    const outline = counts.subarray(0, 255).indexOf(Math.min(...counts.subarray(0, 255)));
    const palette = Array.from({ length: 256 }, (_, level) => (level === outline ? write : [level, level, level])).flat();
    return pictures.map(({ data }) => ({ palette, numbers: data.map((level) => (level === outline ? outline + 1 : level)), outline }));
  }

  /* Draws an outline two pixels wide, as far as it lies on the picture. */
  function frameBox({ width, height, data }, edges, number) {
    const [left, top, right, bottom] = edges;
    const paint = (x, y) => { if (x >= 0 && y >= 0 && x < width && y < height) data[y * width + x] = number; };
    for (let inset = 0; inset < 2; inset++) {
      for (let x = left; x <= right; x++) for (const y of [top + inset, bottom - inset]) paint(x, y);
      for (let y = top; y <= bottom; y++) for (const x of [left + inset, right - inset]) paint(x, y);
    }
  }

  /* An animation of a drawing that pauses on its last picture. boxes: the write window of each picture, or null. */
  function gif(pictures, boxes, comment) {
    const { width, height } = pictures[0], zoom = Math.max(1, Math.floor(tileSide / Math.max(width, height)));
    const step = Math.min(40, Math.max(2, Math.round((100 * playSeconds) / pictures.length))); // hundredths of a second
    const frames = coloured(pictures).map(({ palette, numbers, outline }, t) => {
      const large = enlarge({ width, height, colours: 1, data: numbers }, zoom), last = t === pictures.length - 1;
      if (boxes !== null && !last) frameBox(large, boxes[t].map((edge) => Math.round(zoom * edge)), outline);
      const delay = last ? pauseMilliseconds / 10 : step;
      return concatenate([
        [0x21, 0xf9, 4, 0, ...short(delay), 0, 0], [0x2c, 0, 0, 0, 0, ...short(large.width), ...short(large.height), 0x87], palette, [8],
        blocks(compressed(large.data)),
      ]);
    });
    return concatenate([
      latin("GIF89a"), [...short(width * zoom), ...short(height * zoom), 0x70, 0, 0],
      [0x21, 0xff, 11], latin("NETSCAPE2.0"), [3, 1, 0, 0, 0],
      [0x21, 0xfe], blocks(new TextEncoder().encode(comment)), ...frames, [0x3b],
    ]);
  }

  Object.assign(cap2im, { enlarge, png, dataURI, gif });
})();
