/** A file, a picture or the camera cannot be used; the message says why and what to do. */
export class UserError extends Error {}
