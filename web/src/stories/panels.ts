// The fixed data of every panel that has some: panels/NAME/story.ts.
import type { PanelData } from "../data/types";
import { story as cost } from "../panels/cost/story";
import { story as generation } from "../panels/generation/story";
import { story as groups } from "../panels/groups/story";
import { story as ablation } from "../panels/ablation/story";
import { story as attribution } from "../panels/attribution/story";
import { story as lens } from "../panels/lens/story";
import { story as heads } from "../panels/heads/story";
import { story as microscope } from "../panels/microscope/story";
import { story as lora } from "../panels/lora/story";
import { story as nextToken } from "../panels/next-token/story";
import { story as runs } from "../panels/runs/story";
import { story as packing } from "../panels/packing/story";
import { story as positions } from "../panels/positions/story";

export const STORIES: Record<string, PanelData> = {
  "next-token": nextToken,
  generation,
  groups,
  positions,
  lens,
  attribution,
  ablation,
  microscope,
  heads,
  runs,
  lora,
  packing,
  cost,
};
