"use strict";
/* cap2im.pictureNoise(seed, count): the standard normal numbers of a picture, as docs/reference/noise.md specifies them. */
cap2im.pictureNoise = (() => {
  const pictures = 383471497; // CRC-32 of "picture"
  const single = Math.fround;
  const block = 16; // numbers that are made together

  /* The first 32-bit word of NumPy's SeedSequence([pictures, seed]). */
  function firstWord(seed) {
    const entropy = seed < 2 ** 32 ? [pictures, seed] : [pictures, seed >>> 0, Math.floor(seed / 2 ** 32)];
    let factor = 0x43b0d7e5;
    const hash = (word) => {
      const mixed = word ^ factor;
      factor = Math.imul(factor, 0x931e8875);
      const product = Math.imul(mixed, factor);
      return product ^ (product >>> 16);
    };
    const mix = (one, other) => {
      const sum = Math.imul(one, 0xca01f9dd) - Math.imul(other, 0x4973f715);
      return sum ^ (sum >>> 16);
    };
    const pool = [0, 1, 2, 3].map((index) => hash(entropy[index] ?? 0));
    for (let from = 0; from < 4; from++) {
      for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
    }
    const word = Math.imul(pool[0] ^ 0x8b51f9dd, Math.imul(0x8b51f9dd, 0x58f38ded));
    return (word ^ (word >>> 16)) >>> 0;
  }

  /* A 32-bit Mersenne Twister (MT19937): returns a function that makes the next word. */
  function twister(seed) {
    const state = new Uint32Array(624);
    state[0] = seed;
    for (let n = 1; n < 624; n++) state[n] = Math.imul(1812433253, state[n - 1] ^ (state[n - 1] >>> 30)) + n;
    let at = 624;
    return () => {
      if (at === 624) {
        for (let n = 0; n < 624; n++) {
          const bits = (state[n] & 0x80000000) | (state[(n + 1) % 624] & 0x7fffffff);
          state[n] = state[(n + 397) % 624] ^ (bits >>> 1) ^ (bits & 1 ? 0x9908b0df : 0);
        }
        at = 0;
      }
      let word = state[at++];
      word ^= word >>> 11;
      word ^= (word << 7) & 0x9d2c5680;
      word ^= (word << 15) & 0xefc60000;
      return (word ^ (word >>> 18)) >>> 0;
    };
  }

  /* Replaces 16 uniform numbers by normal ones (Box-Muller) in single precision. */
  function normal(numbers) {
    for (let n = 0; n < block / 2; n++) {
      const radius = single(Math.sqrt(-2 * single(Math.log(1 - numbers[n])))), angle = single(single(2 * Math.PI) * numbers[n + block / 2]);
      numbers[n] = radius * single(Math.cos(angle)); // an assignment rounds
      numbers[n + block / 2] = radius * single(Math.sin(angle));
    }
  }

  return (seed, count) => {
    const next = twister(firstWord(seed)), noise = new Float32Array(count);
    const uniform = (numbers) => numbers.forEach((_, n) => { numbers[n] = (next() & 0xffffff) / 2 ** 24; });
    uniform(noise);
    for (let start = 0; start + block <= count; start += block) normal(noise.subarray(start, start + block));
    if (count % block) {
      const last = noise.subarray(count - block);
      uniform(last);
      normal(last);
    }
    return noise;
  };
})();
