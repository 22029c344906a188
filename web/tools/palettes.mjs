// The colours of d3-scale-chromatic that the page uses: 256 of each, as steps from one to the next in a text (its first
// letters are large), all reds before all greens before all blues, since steps are nearly alike and take a tenth of the
// room. Imported as "palette:Viridis".
import * as chromatic from "d3-scale-chromatic";

const NONE = "P".charCodeAt(0); // a step of 0

export const palettes = {
  name: "palettes",
  setup(build) {
    build.onResolve({ filter: /^palette:/ }, ({ path }) => ({ path: path.slice("palette:".length), namespace: "palette" }));
    build.onLoad({ filter: /.*/, namespace: "palette" }, ({ path }) => {
      const colour = chromatic[`interpolate${path}`];
      const colours = Array.from({ length: 256 }, (_, i) => channels(colour(i / 255)));
      const steps = [0, 1, 2].flatMap((c) => colours.map((one, i) => one[c] - (i ? colours[i - 1][c] : 0)));
      return { contents: `export default ${JSON.stringify(String.fromCharCode(...steps.map((one) => NONE + one)))}`, loader: "js" };
    });
  },
};

/** Of "#440154" or "rgb(68, 1, 84)". */
function channels(colour) {
  const hex = /^#(..)(..)(..)$/.exec(colour);
  return hex ? hex.slice(1).map((one) => parseInt(one, 16)) : colour.match(/\d+/g).slice(0, 3).map(Number);
}
