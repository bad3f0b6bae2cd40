"use strict";
/* An error whose message people can read. status: that of HTTP, or 0 for no response; after: seconds to wait before a retry, or null. */
cap2im.Refusal = class Refusal extends Error {
  constructor(status, detail, after = null) {
    super(detail);
    Object.assign(this, { status, after });
  }
};
