declare module "*.css";

/** What is said of each panel: tools/prose.mjs. */
declare module "prose:about" {
  const about: import("./data/types").About[];
  export default about;
}

/** 256 colours, as steps from one to the next: tools/palettes.mjs. */
declare module "palette:*" {
  const steps: string;
  export default steps;
}
