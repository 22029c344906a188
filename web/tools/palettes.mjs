// The colours of d3-scale-chromatic that the page uses, as bytes in base64: 256 of each, of which the library's own form
// is twenty times as long. Imported as "palette:Viridis".
import * as chromatic from "d3-scale-chromatic";

export const palettes = {
  name: "palettes",
  setup(build) {
    build.onResolve({ filter: /^palette:/ }, ({ path }) => ({ path: path.slice("palette:".length), namespace: "palette" }));
    build.onLoad({ filter: /.*/, namespace: "palette" }, ({ path }) => {
      const colour = chromatic[`interpolate${path}`];
      const bytes = Array.from({ length: 256 }, (_, i) => channels(colour(i / 255))).flat();
      return { contents: `export default "${Buffer.from(bytes).toString("base64")}"`, loader: "js" };
    });
  },
};

/** Of "#440154" or "rgb(68, 1, 84)". */
function channels(colour) {
  const hex = /^#(..)(..)(..)$/.exec(colour);
  return hex ? hex.slice(1).map((one) => parseInt(one, 16)) : colour.match(/\d+/g).slice(0, 3).map(Number);
}
