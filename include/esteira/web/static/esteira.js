// What Airflow loads: one component for each of the plugin's react_apps, under the name by which the plugin declares it.

import { Model, ModelOfDag } from "./model.js";
import { Card, Models } from "./models.js";
import { html } from "./parts.js";
import { Run } from "./run.js";

const { useParams } = globalThis.ReactRouterDOM;

/** The page under /plugin/esteira: all models, or below it the one that the address names. */
function Pages() {
  const model = useParams()["*"];
  return model ? html`<${Model} model=${decodeURIComponent(model)} />` : html`<${Models} />`;
}

Object.assign(globalThis, { "Models": Pages, "Models, worst first": Card, "Model": ModelOfDag, "In words": Run });
