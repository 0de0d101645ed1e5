// A run of a check or a score, in words.

import { Answered, Rows, html, useAnswer } from "./parts.js";
import { number, percent, say } from "./words.js";

const { Box, Heading, Link: ChakraLink, Text, VStack } = globalThis.ChakraUI;

/** The tab on a run: which day it is about, what was measured, decided and tried, and why. */
export function Run({ dagId, runId }) {
  const answer = useAnswer(`models/${encodeURIComponent(dagId ?? "")}/runs/${encodeURIComponent(runId ?? "")}`);
  return html`<${Box} p=${4} data-esteira="run"><${Answered} answer=${answer}>${(found) => html`<${Told} found=${found} />`}<//><//>`;
}

function Why({ found }) {
  return html`<${Box}>
    <${Heading} size="sm" mb=${1}>${say("Why it may have moved")}<//>
    ${found.moved.length ? html`<${Rows} rows=${found.moved} columns=${MOVED} />` : html`<${Text}>${say("No input moved: the relation, the target or the labels changed, unless it is chance.")}<//>`}
    ${found.worsened.length ? html`<${Rows} rows=${found.worsened} columns=${WORSE} />` : null}
    ${found.report ? html`<${ChakraLink} href=${found.report} target="_blank" rel="noopener noreferrer">${say("The drift report in MLflow")}<//>` : null}
  <//>`;
}

const MOVED = [
  { name: "feature", of: (row) => row.feature },
  { name: "PSI", of: (row) => row.value },
  { name: "importance", of: (row) => row.importance, show: (row) => percent(row.importance) },
];
const WORSE = [
  { name: "segment", of: (row) => row.segment },
  { name: "before", of: (row) => row.before },
  { name: "now", of: (row) => row.now },
  { name: "rows", of: (row) => row.rows },
];

function Told({ found }) {
  const windows = (found.check?.windows ?? []).flatMap((window) => Object.entries(window.metrics).map(([metric, reached]) => ({ ...window, metric, ...reached })));
  return html`<${VStack} align="stretch" gap=${4}>
    <${Heading} size="md">${found.title}<//>
    ${found.sentences.map((each, index) => html`<${Text} key=${index}>${each}<//>`)}
    ${found.check?.explanation ? html`<${Why} found=${found.check.explanation} />` : null}
    ${windows.length ? html`<${Rows} rows=${windows} columns=${[
      { name: "window", of: (row) => row.last, show: (row) => `${row.first} – ${row.last}` },
      { name: "Metric", of: (row) => row.metric },
      { name: "value", of: (row) => row.value },
      { name: "range", of: (row) => row.wanted },
      { name: "verdict", of: (row) => row.beyond <= 0, show: (row) => say(row.beyond <= 0 ? "in range" : "out of range") },
      { name: "rows", of: (row) => row.rows, show: (row) => number(row.rows) },
    ]} />` : null}
  <//>`;
}
