// One model: its metric with what happened to it, drift, versions, attempts, quarantine, labels, tables.

import { Answered, Choice, Rows, State, html, range, useAnswer, useMemo, useState } from "./parts.js";
import { Actions } from "./actions.js";
import { Plot } from "./plot.js";
import { OneRow } from "./row.js";
import { moment, number, percent, say } from "./words.js";

const { Badge, Box, Heading, HStack, Link: ChakraLink, Text, VStack } = globalThis.ChakraUI;
const { Link } = globalThis.ReactRouterDOM;
/** The tab of a run that says what it was about. */
const inWords = (dag, run) => `/dags/${encodeURIComponent(dag)}/runs/${encodeURIComponent(run)}/plugin/esteira-run`;
const KINDS = /_(train|score|check)$/;
const SPANS = { 8: "8", 26: "26", 52: "52", 520: "" };

/** The tab on a model's DAGs: the model that the DAG is of. */
export function ModelOfDag({ dagId }) {
  return html`<${Model} model=${(dagId ?? "").replace(KINDS, "")} />`;
}

/** The page of a model. */
export function Model({ model }) {
  const [weeks, setWeeks] = useState("8");
  const [again, setAgain] = useState(0);
  const answer = useAnswer(`models/${encodeURIComponent(`${model}_check`)}?weeks=${weeks}`, undefined, again);
  return html`<${Box} p=${4} data-esteira="model">
    <${HStack} justify="space-between" mb=${3}>
      <${Heading} size="lg">${model}<//>
      <${Choice} label=${say("Weeks")} value=${weeks} onChange=${setWeeks}
        options=${Object.fromEntries(Object.entries(SPANS).map(([each, text]) => [each, text ? `${text} ${say("Weeks").toLowerCase()}` : say("all")]))} />
    <//>
    <${Answered} answer=${answer}>${(found) => html`<${Shown} model=${model} found=${found} changed=${() => setAgain((before) => before + 1)} />`}<//>
  <//>`;
}

function Section({ title, children }) {
  return html`<${Box} as="section"><${Heading} size="sm" mb=${2}>${say(title)}<//>${children}<//>`;
}

function Shown({ model, found, changed }) {
  const { health } = found;
  return html`<${VStack} align="stretch" gap=${6}>
    <${Box}>
      ${[{ condition: health.condition, why: health.why }, ...health.also].map((each) => html`<${HStack} key=${each.condition} gap=${2} align="start" wrap=${{ base: "wrap", md: "nowrap" }}><${State} of=${each.condition} /><${Text}>${each.why}<//><//>`)}
      <${HStack} gap=${2} wrap="wrap">
        ${health.drifting && html`<${Badge} colorPalette="purple">${say("drifting")}<//>`}${health.paused && html`<${Badge}>${say("paused")}<//>`}<//>
      <${HStack} gap=${6} mt=${2} wrap="wrap" fontSize="sm">
        ${[["Champion", health.champion ? `v${health.champion.version}, ${health.champion.effective_day}` : say("none yet")],
          ["Scored", health.last_scored ?? say("never")], ["Rows", number(health.rows)], ["Quarantine", percent(health.quarantined)],
          ["Labels to", health.labelled_through ? `${health.labelled_through} (${say("expected after")} ${health.label_delay} d)` : "–"], ["Next run", moment(health.next_run)], ["Owner", health.owner]]
          .map(([name, value]) => html`<${Box} key=${name}><${Text} color="fg.muted">${say(name)}<//>${value}<//>`)}
        <${HStack} gap=${3} wrap="wrap">${["train", "score", "check"].map((kind) => html`<${Link} key=${kind} to=${`/dags/${model}_${kind}`}>${model}_${kind}<//>`)}<//>
      <//>
    <//>
    <${HStack} gap=${3} wrap="wrap" align="start"><${Actions} model=${model} found=${found} changed=${changed} /><${OneRow} model=${model} found=${found} /><//>
    ${Object.entries(found.windows).map(([metric, windows], index) => html`<${Metric} key=${metric} index=${index} metric=${metric} windows=${windows} found=${found} model=${model} />`)}
    <${Section} title="Drift by feature and week (PSI)"><${Heat} drift=${found.drift} />
      ${found.drift.length ? html`<details><summary>${say("Values")}</summary><${Rows} name=${`${model}-drift`} rows=${found.drift} columns=${DRIFT} first=${{ name: "day", down: true }} /></details>` : null}<//>
    ${found.segments.length ? html`<${Section} title="Segments"><${Rows} name=${`${model}-segments`} rows=${found.segments} columns=${SEGMENTS} /><//>` : null}
    <${Section} title="Versions"><${Versions} found=${found} model=${model} /><//>
    <${Section} title="Attempts"><${Attempts} found=${found} model=${model} /><//>
    <${Section} title="What happened"><${Rows} name=${`${model}-history`} rows=${found.events} columns=${EVENTS} /><//>
    <${Section} title="Quarantine"><${Rows} name=${`${model}-quarantine`} rows=${found.quarantine} columns=${QUARANTINE} />
      ${found.bad_rows.length ? html`<details><summary>${say("Examples")}</summary><${Rows} rows=${found.bad_rows} columns=${EXAMPLES} /></details>` : null}<//>
    <${Section} title="Mails"><${Rows} name=${`${model}-mails`} rows=${found.mails} columns=${MAILS} /><//>
    <${Section} title="Labels"><${Rows} name=${`${model}-labels`} rows=${found.labels} columns=${LABELS} first=${{ name: "day", down: true }} /><//>
    <${Section} title="Runs"><${Text} fontSize="sm" color="fg.muted">${found.recent.length} ${say("runs")}, ${number(found.recent.reduce((sum, each) => sum + (each.seconds ?? 0), 0))} ${say("seconds")} ${say("in all")}<//><${Rows} name=${`${model}-runs`} rows=${found.recent} columns=${RUNS} keyOf=${(row) => `${row.dag_id} ${row.run_id}`} /><//>
    <${Section} title="Tables"><${Rows} name=${`${model}-tables`} rows=${found.tables} columns=${TABLES} /><//>
  <//>`;
}

const EVENTS = [
  { name: "day", of: (row) => row.day },
  { name: "what", of: (row) => row.state, show: (row) => say(row.state) },
  { name: "version", of: (row) => row.version },
  { name: "why", of: (row) => row.why },
  { name: "by", of: (row) => row.by },
];
const QUARANTINE = [
  { name: "rows", of: (row) => row.rows },
  { name: "days", of: (row) => row.days },
  { name: "stage", of: (row) => row.stage },
  { name: "rule", of: (row) => row.rule },
  { name: "reason", of: (row) => row.reason },
];
const EXAMPLES = [
  { name: "day", of: (row) => row.day },
  { name: "rule", of: (row) => row.rule },
  { name: "reason", of: (row) => row.reason },
  { name: "values", of: (row) => JSON.stringify(row.values) },
];
const SEGMENTS = [
  { name: "what", of: (row) => row.metric },
  { name: "value", of: (row) => row.value },
  { name: "verdict", of: (row) => row.in_range, show: (row) => (row.in_range === null ? "–" : say(row.in_range ? "in range" : "out of range")) },
  { name: "rows", of: (row) => row.rows },
];
const MAILS = [
  { name: "when", of: (row) => row.at, show: (row) => moment(row.at) },
  { name: "day", of: (row) => row.day },
  { name: "subject", of: (row) => row.subject },
  { name: "to", of: (row) => row.to },
  { name: "state", of: (row) => row.state },
];
const LABELS = [
  { name: "day", of: (row) => row.day },
  { name: "rows", of: (row) => row.rows },
  { name: "labelled", of: (row) => row.labelled },
  { name: "share", of: (row) => (row.rows ? row.labelled / row.rows : null), show: (row) => percent(row.rows ? row.labelled / row.rows : null) },
];
const RUNS = [
  { name: "run", of: (row) => row.run_id, show: (row) => html`<${Link} to=${inWords(row.dag_id, row.run_id)}>${row.run_id}<//>` },
  { name: "DAG", of: (row) => row.dag_id },
  { name: "state", of: (row) => row.state },
  { name: "when", of: (row) => row.at, show: (row) => moment(row.at) },
  { name: "seconds", of: (row) => row.seconds },
  { name: "what", of: (row) => row.note },
];
const TABLES = [
  { name: "table", of: (row) => row.kind },
  { name: "rows", of: (row) => row.rows, show: (row) => row.rows.toLocaleString() },
  { name: "size", of: (row) => row.bytes, show: (row) => `${number(row.bytes / 1e6, 3)} MB` },
  { name: "version", of: (row) => row.version },
  { name: "days", of: (row) => row.days },
  { name: "place", of: (row) => row.place },
];

const DAY = { name: "day", of: (row) => row.last };
const ESTIMATES = [{ name: "day", of: (row) => row.day }, { name: "value", of: (row) => row.value }];
const DRIFT = [
  { name: "day", of: (row) => row.day },
  { name: "what", of: (row) => (row.is_outcome ? `(${row.name})` : row.name) },
  { name: "segment", of: (row) => row.segment },
  { name: "PSI", of: (row) => row.value },
  { name: "verdict", of: (row) => row.drifted, show: (row) => (row.drifted ? html`<b>${say("drifted")}</b>` : "–") },
];

function marksOf(found) {
  const events = found.events.filter((each) => ["champion", "rolled back to", "roll-back undone", "warned", "drifted", "worse"].includes(each.state))
    .map((each) => ({ day: each.day, kind: each.state, text: each.why }));
  const attempts = found.checks.filter((each) => Object.keys(each.attempts).length).map((each) => ({ day: each.day, kind: "attempt", text: each.verdict?.why ?? "" }));
  return [...events, ...attempts];
}

function Metric({ metric, index, windows, found, model }) {
  const limit = found.limits[metric];
  const series = useMemo(() => [
    { label: say("window"), points: windows.map((each) => [each.last, each.value]) },
    ...(found.days?.[metric]?.length ? [{ label: say("each day"), points: found.days[metric].map((each) => [each.last, each.value]) }] : []),
    ...(index === 0 && found.estimates.length ? [{ label: say("estimate"), dash: [4, 4], points: found.estimates.map((each) => [each.day, each.value]) }] : []),
  ], [windows, found, metric, index]);
  const marks = useMemo(() => marksOf(found), [found]);
  const columns = [
    { name: "window", of: (row) => row.last, plain: (row) => `${row.first}/${row.last}`, show: (row) => `${row.first} – ${row.last}` },
    { name: "version", of: (row) => row.version, show: (row) => `v${row.version}` },
    { name: "value", of: (row) => row.value },
    { name: "verdict", of: (row) => row.in_range, show: (row) => (row.in_range === null ? "–" : row.in_range ? say("in range") : html`<b style=${{ color: "#e53e3e" }}>${say("out of range")}</b>`) },
    { name: "rows", of: (row) => row.rows },
  ];
  return html`<${Box} as="section"><${Heading} size="sm" mb=${2}>${metric} <${Text} as="span" color="fg.muted">${range(limit)}<//><//>
    ${windows.length ? html`<${Plot} series=${series} marks=${marks} limit=${limit} label=${`${metric}, ${range(limit)}`} />` : null}
    <details><summary>${say("Windows")}</summary><${Rows} name=${`${model}-${metric}`} rows=${windows} columns=${columns} first=${{ name: "window", down: true }} /></details>
    ${found.days?.[metric]?.length ? html`<details><summary>${say("Days")}</summary><${Rows} name=${`${model}-${metric}-days`} rows=${found.days[metric]} columns=${columns.map((each) => (each.name === "window" ? DAY : each))} first=${{ name: "day", down: true }} /></details>` : null}
    ${index === 0 && found.estimates.length ? html`<details><summary>${say("Estimates of days without labels")}</summary><${Rows} name=${`${model}-estimates`} rows=${found.estimates} columns=${ESTIMATES} /></details>` : null}
  <//>`;
}

const monday = (day) => {
  const moment = new Date(`${day}T00:00:00Z`);
  moment.setUTCDate(moment.getUTCDate() - ((moment.getUTCDay() + 6) % 7));
  return moment.toISOString().slice(0, 10);
};

/** PSI by feature and week, the largest of the week; a frame is around what had drifted beyond chance. */
function Heat({ drift }) {
  const [weeks, names, cells] = useMemo(() => {
    const cells = new Map(), weeks = new Set(), names = new Map();
    drift.filter((each) => !each.segment).forEach((each) => {
      const week = monday(each.day), name = each.is_outcome ? `(${each.name})` : each.name;
      weeks.add(week);
      names.set(name, Math.max(names.get(name) ?? 0, each.value));
      const key = `${name}\n${week}`, before = cells.get(key);
      if (!before || each.value > before.value) cells.set(key, { value: each.value, drifted: each.drifted || before?.drifted });
    });
    return [[...weeks].sort(), [...names].sort((a, b) => b[1] - a[1]).map(([name]) => name), cells];
  }, [drift]);
  if (!weeks.length) return html`<${Text} color="fg.muted">${say("nothing")}<//>`;
  return html`<${Box} overflowX="auto"><table style=${{ borderCollapse: "separate", borderSpacing: "2px", fontSize: "0.8rem" }}>
    <thead><tr><th />${weeks.map((week) => html`<th key=${week} scope="col" style=${{ fontWeight: 400, padding: "0 4px" }}>${week.slice(5)}</th>`)}</tr></thead>
    <tbody>${names.map((name) => html`<tr key=${name}><th scope="row" style=${{ textAlign: "right", fontWeight: 400, paddingRight: "8px" }}>${name}</th>
      ${weeks.map((week) => {
        const cell = cells.get(`${name}\n${week}`);
        const strength = cell ? Math.min(cell.value / 0.5, 1) : 0;
        return html`<td key=${week} title=${cell ? `${name}, ${week}: ${number(cell.value, 3)}` : ""}
          style=${{ background: cell ? `rgba(128, 90, 213, ${0.06 + 0.44 * strength})` : "transparent", outline: cell?.drifted ? "2px solid #e53e3e" : "none", textAlign: "center", padding: "2px 6px", minWidth: "3.2rem" }}>${cell ? number(cell.value, 2) : ""}</td>`;
      })}</tr>`)}</tbody></table><//>`;
}

function Versions({ found, model }) {
  const columns = [
    { name: "version", of: (row) => row.number, show: (row) => `v${row.number}` },
    { name: "served", of: (row) => row.served[0]?.first, plain: served, show: (row) => served(row) },
    { name: "published now", of: (row) => row.published_days, plain: (row) => row.published, show: (row) => (row.published_days ? `${row.published_days} d: ${row.published}` : "–") },
    { name: "why", of: (row) => row.promotions.at(-1)?.why ?? (row.judged_for ? `${say("judged")}; v${row.judged_for}: ${say("the same, fitted on all that was known")}` : null) },
    { name: "by", of: (row) => row.promotions.at(-1)?.by ?? row.run_id },
    { name: "gain", of: (row) => row.promotions.at(-1)?.facts.gain },
    { name: "interval", of: (row) => row.promotions.at(-1)?.facts.gain_lower, plain: (row) => interval(row.promotions.at(-1)?.facts), show: (row) => interval(row.promotions.at(-1)?.facts) || "–" },
    { name: "notebook", of: (row) => row.promotions.at(-1)?.facts.commit, show: (row) => html`<code title=${row.promotions.at(-1)?.facts.commit ?? ""}>${row.promotions.at(-1)?.facts.commit?.slice(0, 10) || "–"}</code>` },
    { name: "MLflow", of: (row) => row.run_id, show: (row) => html`<${MlflowRun} found=${found} run=${row.run_id} />` },
    { name: "engine", of: (row) => row.engine || null, show: (row) => html`<span title=${row.not_compiled}>${row.engine || "–"}</span>` },
    { name: "first window", of: (row) => (row.verified ? (row.verified.worse ? "worse" : "verified") : null), show: (row) => html`<span title=${row.verified?.why ?? ""}>${row.verified ? say(row.verified.worse ? "worse" : "verified") : "–"}</span>` },
  ];
  return html`<${Rows} name=${`${model}-versions`} rows=${found.versions} columns=${columns} keyOf=${(row) => row.number} first=${{ name: "version", down: true }} />`;
}

const interval = (facts) => (facts?.gain_lower === undefined || facts.gain_lower === null ? "" : `${number(facts.gain_lower)} – ${number(facts.gain_upper)}`);
const served = (row) => row.served.map((each) => `${each.first} – ${each.last ?? say("now")}`).join(", ") || say("never");

/** A link to a run in MLflow, whose own pages must be told that it is no conversation with a language model. */
function MlflowRun({ found, run }) {
  if (!run) return "–";
  const text = run.slice(0, 8);
  if (!found.mlflow) return text;
  return html`<${ChakraLink} href=${`${found.mlflow}/#/runs/${encodeURIComponent(run)}?workflowType=machine_learning`} target="_blank" rel="noopener noreferrer">${text}<//>`;
}

function Attempts({ found, model }) {
  const rows = found.checks.flatMap((check) => Object.values(check.attempts).map((each) => ({ ...each, day: check.day, check })));
  const columns = [
    { name: "check", of: (row) => row.day, show: (row) => (found.runs[row.day] ? html`<${Link} to=${inWords(`${model}_check`, found.runs[row.day])}>${row.day}<//>` : row.day) },
    { name: "tried", of: (row) => row.number, show: (row) => (row.number ? `${say("attempt")} ${row.number}` : say("blend")) },
    { name: "outcome", of: (row) => row.outcome, show: (row) => say(row.outcome) },
    { name: "value", of: (row) => row.value },
    { name: "gain", of: (row) => row.gain },
    { name: "interval", of: (row) => row.lower, plain: (row) => `${row.lower}/${row.upper}`, show: (row) => `${number(row.lower)} – ${number(row.upper)}` },
    { name: "rows", of: (row) => row.rows },
    { name: "run", of: (row) => row.run_id, show: (row) => html`<${MlflowRun} found=${found} run=${row.run_id} />` },
  ];
  return html`<${Rows} name=${`${model}-attempts`} rows=${rows} columns=${columns} first=${{ name: "check", down: true }} />`;
}
