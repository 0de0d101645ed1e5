// All models, the worst first; and, for Airflow's first page, how many are ill and which are worst.

import { Answered, Choice, Rows, Sparkline, State, html, range, useAnswer, useMemo, useState } from "./parts.js";
import { moment, number, percent, say } from "./words.js";

const { Badge, Box, Heading, HStack, Input, Text, VStack } = globalThis.ChakraUI;
const { Link } = globalThis.ReactRouterDOM;

const pageOf = (model) => `/plugin/esteira/${encodeURIComponent(model)}`;
const conditionsOf = (row) => [row.condition, ...row.also.map((each) => each.condition), ...(row.drifting ? ["drifting"] : [])];

const COLUMNS = [
  { name: "Model", of: (row) => row.model, show: (row) => html`<${Link} to=${pageOf(row.model)}>${row.model}<//>` },
  { name: "State", of: (row) => row.rank, plain: (row) => conditionsOf(row).join("; "), show: (row) => html`<${HStack} wrap="wrap" gap=${1} maxW="16rem" title=${row.why}>
      ${row.unread ? html`<${Text} color="fg.muted">${say("loading")}<//>` : html`<${State} of=${row.condition} />`}
      ${row.also.map((each) => html`<span key=${each.condition} title=${each.why}><${State} of=${each.condition} /></span>`)}
      ${row.drifting && html`<${Badge} colorPalette="purple">${say("drifting")}<//>`}
      ${row.paused && html`<${Badge}>${say("paused")}<//>`}
      ${row.why && row.condition !== "healthy" && html`<${Text} fontSize="xs" color="fg.muted" w="full" lineClamp=${3}>${row.why}<//>`}<//>` },
  { name: "Metric", of: (row) => last(row)?.value, show: (row) => html`<${Text} whiteSpace="nowrap">${row.metric ?? ""} <b>${number(last(row)?.value)}</b><br /><small>${range(row.limit)}${last(row) ? `, v${last(row).version}, ${last(row).last}` : ""}</small><//>` },
  { name: "8 weeks", of: () => null, show: (row) => html`<${Sparkline} windows=${row.trend} limit=${row.limit} />` },
  { name: "Champion", of: (row) => row.champion?.effective_day, show: (row) => row.champion ? html`<${Text} whiteSpace="nowrap">v${row.champion.version}<br /><small>${row.champion.effective_day}, ${age(row.champion.effective_day)}</small><//>` : never(row, "none yet"),
    plain: (row) => (row.champion ? `v${row.champion.version} ${row.champion.effective_day}` : "") },
  { name: "Scored", of: (row) => row.last_scored, show: (row) => html`<${Text} whiteSpace="nowrap">${row.last_scored ?? never(row, "never")}<//>` },
  { name: "Rows", of: (row) => (row.condition === "broken" ? null : row.rows) },
  { name: "Quarantine", of: (row) => row.quarantined, show: (row) => percent(row.quarantined) },
  { name: "Drift", of: (row) => row.drift?.share, show: (row) => percent(row.drift?.share) },
  { name: "Labels to", of: (row) => row.labelled_through, show: (row) => html`<${Text} whiteSpace="nowrap">${row.labelled_through ?? "–"}${lag(row) && html`<br /><small>${lag(row)}</small>`}<//>` },
  { name: "Next run", of: (row) => row.next_run, show: (row) => moment(row.next_run) },
  { name: "Owner", of: (row) => row.owner },
];

/** How old the newest label is, and how old it should be. */
const lag = (row) => (row.labelled_through ? `${age(row.labelled_through)}, ${say("expected after")} ${row.label_delay} d` : "");
const age = (day) => `${daysBetween(day, new Date().toISOString().slice(0, 10))} d`;
const daysBetween = (first, last) => Math.round((Date.parse(last) - Date.parse(first)) / 86_400_000);

/** What there is none of; of a model that can't be read nothing is known. */
const never = (row, text) => (row.condition === "broken" ? "–" : say(text));

const last = (row) => row.trend?.[row.trend.length - 1];

/** The page of all models. */
export function Models() {
  const answer = useAnswer("models", (rows) => rows.some((row) => row.unread || row.old));
  const [text, setText] = useState("");
  const [state, setState] = useState("");
  return html`<${Box} p=${4} data-esteira="models">
    <${Heading} size="lg" mb=${3}>${say("Models")}<//>
    <${Answered} answer=${answer}>${(rows) => html`<${Listed} rows=${rows} ...${{ text, setText, state, setState }} />`}<//>
  <//>`;
}

function Listed({ rows, text, setText, state, setState }) {
  const ranked = useMemo(() => rows.map((row, rank) => ({ ...row, rank })), [rows]);
  const states = useMemo(() => [...new Set(ranked.flatMap(conditionsOf))], [ranked]);
  const chosen = ranked.filter((row) =>
    (!state || conditionsOf(row).includes(state)) && `${row.model} ${row.owner}`.toLowerCase().includes(text.toLowerCase()));
  if (!rows.length) {
    return html`<${Box}><${Heading} size="sm">${say("No model yet")}<//><${Text}>${say("Put a model.yaml into include/models/<name>/ (or a folder of ESTEIRA_MODELS); its three DAGs appear within a minute. Then trigger <name>_train.")}<//><//>`;
  }
  return html`<${VStack} align="stretch" gap=${3}>
    <${HStack} gap=${2} wrap="wrap">
      <${Input} size="sm" maxW="20rem" placeholder=${say("Search")} aria-label=${say("Search")} value=${text} onChange=${(event) => setText(event.target.value)} />
      <${Choice} label=${say("State")} value=${state} onChange=${setState} options=${{ "": say("every state"), ...Object.fromEntries(states.map((each) => [each, say(each)])) }} />
      <${Text} color="fg.muted" whiteSpace="nowrap">${chosen.length} ${say("of")} ${rows.length}<//>
    <//>
    ${chosen.length ? html`<${Rows} columns=${COLUMNS} rows=${chosen} keyOf=${(row) => row.model} name="models" />` : html`<${Text}>${say("No model matches.")}<//>`}
  <//>`;
}

/** On Airflow's first page: how many models are ill, and the worst ones. */
export function Card() {
  const answer = useAnswer("models?worst=5", (found) => found.unread);
  return html`<${Box} borderWidth="1px" borderRadius="md" p=${4} my=${2} data-esteira="card">
    <${HStack} justify="space-between" mb=${2}><${Heading} size="md">${say("Models")}<//><${Link} to="/plugin/esteira">${say("All models")}<//><//>
    <${Answered} answer=${answer}>${(found) => html`<${Counted} found=${found} />`}<//>
  <//>`;
}

function Counted({ found }) {
  const counts = Object.entries(found.counts);
  return html`<${VStack} align="stretch" gap=${2}>
    <${HStack} gap=${2} wrap="wrap">${counts.map(([each, count]) => html`<${HStack} key=${each} gap=${1}><b>${count}</b><${State} of=${each} /><//>`)}
      ${found.unread && html`<${Text} color="fg.muted">${say("loading")}<//>`}${!counts.length && !found.unread && html`<${Text}>${say("No model yet")}<//>`}<//>
    ${found.worst.map((row) => html`<${HStack} key=${row.model} gap=${3} title=${row.why} wrap="wrap">
      <${Box} minW="12rem"><${Link} to=${pageOf(row.model)}>${row.model}<//><//>
      <${State} of=${row.condition} />${row.also.map((each) => html`<${State} key=${each.condition} of=${each.condition} />`)}
      <${Sparkline} windows=${row.trend} limit=${row.limit} />
      <${Text} truncate maxW="min(50rem, 100%)" color="fg.muted">${row.why}<//>
    <//>`)}
  <//>`;
}
