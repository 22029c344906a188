declare module "*.css";

/** 256 colours of 3 bytes in base64: tools/palettes.mjs. */
declare module "palette:*" {
  const base64: string;
  export default base64;
}
