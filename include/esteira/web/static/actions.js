// What a user may start: a check, a score, a roll-back. Airflow starts the run, asks again whether this user may, and keeps who did.

import { address, html, inWords, useEffect, useState } from "./parts.js";
import { say } from "./words.js";

const { Box, Button, HStack, Input, Text } = globalThis.ChakraUI;
const PATIENCE = 30 * 60_000;
const { Link } = globalThis.ReactRouterDOM;

async function asked(path, body) {
  const response = await fetch(new URL(path, document.baseURI), body && {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  const found = await response.json().catch(() => ({}));
  if (response.ok) return found;
  // What a schema has to say is long; its first line says what is wrong.
  const said = String(inWords(found.detail) ?? response.status).split("\n\n")[0];
  throw new Error(response.status === 403 ? say("You may not see this.") : said);
}

/** A run's name begins with the day that it is about, by which lists sort it. */
const start = (dag, conf) => asked(`api/v2/dags/${encodeURIComponent(dag)}/dagRuns`, {
  logical_date: null, conf, dag_run_id: `${conf.day ?? "by-hand"}__${new Date().toISOString()}`,
});

/** Tell how a run is until it has ended; asked for every two seconds, and for as long as a retraining may take. */
async function follow(dag, run, tell) {
  const limit = Date.now() + PATIENCE;
  while (Date.now() < limit) {
    const { state, note } = await asked(`api/v2/dags/${encodeURIComponent(dag)}/dagRuns/${encodeURIComponent(run)}`);
    tell(state, note);
    if (state === "success" || state === "failed") return;
    await new Promise((go) => setTimeout(go, 2000));
  }
}

/** The buttons, and what came of the last one. */
export function Actions({ model, found, changed }) {
  const [day, setDay] = useState(found.health.last_scored ?? "");
  const [last, setLast] = useState("");
  const [reason, setReason] = useState("");
  const [plan, setPlan] = useState(null);
  const [told, setTold] = useState(null);
  const [busy, setBusy] = useState(false);
  const doing = async (work) => {
    setTold(null);
    setBusy(true);
    try { await work(); } catch (error) { setTold({ error: error.message }); } finally { setBusy(false); }
  };
  const run = (dag, conf) => doing(async () => {
    const { dag_run_id: name } = await start(dag, conf);
    setTold({ dag, run: name });
    follow(dag, name, (state, note) => setTold({ dag, run: name, state, note })).then(changed, () => {});  // a roll-back need not wait for it
  });
  const look = (undo) => doing(async () => setPlan(await asked(address(`models/${model}_check/rollback?undo=${undo}`))));
  useEffect(() => { if (found.may.rollback && ["#rollback", "#undo"].includes(globalThis.location.hash)) look(globalThis.location.hash === "#undo"); }, []);
  if (!Object.values(found.may).some(Boolean)) {
    return html`<${Text} color="fg.muted" flex="1">${say("With your role you may look, and start nothing here.")}<//>`;
  }
  const button = (text, onClick, possible = true) => html`<${Button} size="sm" variant="outline" disabled=${busy || !possible} onClick=${onClick}>${say(text)}<//>`;
  return html`<${Box} borderWidth="1px" borderRadius="md" p=${3} flex="1" id="rollback" minW="min(24rem, 100%)">
    <${HStack} gap=${2} wrap="wrap">
      <${Input} type="date" size="sm" width="10rem" min="1900-01-01" max="9999-12-31" aria-label=${say("Day")} value=${day} onChange=${(event) => setDay(event.target.value)} />
      ${found.may.check && button("Check now", () => run(`${model}_check`, { day }), day)}
      ${found.may.score && button("Score again", () => run(`${model}_score`, { day, ...(last && { last_day: last }) }), day)}
      ${found.may.score && html`<${HStack} gap=${2}><${Text} fontSize="sm">${say("until")}<//>
        <${Input} type="date" size="sm" width="10rem" min=${day || "1900-01-01"} max="9999-12-31" aria-label=${say("until")} title=${say("For a range: its last day; empty: the one day")} value=${last} onChange=${(event) => setLast(event.target.value)} /><//>`}
      ${found.may.rollback && button("Roll back", () => look(false))}
      ${found.may.rollback && button("Undo the roll-back", () => look(true))}
    <//>
    ${plan && html`<${Box} mt=${3} role="group" aria-label=${say("Roll back")}>
      ${plan.lines.map((line, index) => html`<${Text} key=${index} whiteSpace="pre-wrap" fontFamily="mono" fontSize="sm">${line}<//>`)}
      <${HStack} mt=${2}>
        ${plan.changes && html`<${Input} size="sm" placeholder=${say("Reason")} aria-label=${say("Reason")} value=${reason} onChange=${(event) => setReason(event.target.value)} />
          <${Button} size="sm" colorPalette="red" onClick=${() => { setPlan(null); run("esteira_rollback", { ...plan.conf, reason }); }}>${say("Do it")}<//>`}
        <${Button} size="sm" variant="ghost" onClick=${() => setPlan(null)}>${say("Cancel")}<//>
      <//><//>`}
    ${told?.error && html`<${Text} role="alert" mt=${2} color="fg.error" whiteSpace="pre-wrap">${told.error}<//>`}
    ${told?.run && html`<${Text} mt=${2} role="status">${say("started")}: <${Link} to=${`/dags/${told.dag}/runs/${encodeURIComponent(told.run)}`}>${told.dag}<//>${told.state ? html`: <b>${told.state}</b>${told.note ? html`, ${told.note}` : ""}` : ""}<//>`}
    ${found.health.paused && found.may.score && html`<${Text} mt=${2} fontSize="sm" color="fg.muted">${say("The score DAG is paused: what is started waits until somebody unpauses it.")}<//>`}
  <//>`;
}
