// Shows the training job in its tab. The job lives in the server; this script asks for its state once a second while
// the tab is visible and draws it, so a reloaded page or a second one shows the same run.
(() => {
    "use strict";
    if (window.loraExtLoaded) return;
    window.loraExtLoaded = true;

    const BASE = "lora-ext/v1/page/";
    const KEY_HEADER = "x-lora-ext-key";
    const EVERY = {busy: 1000, idle: 3000};
    const OVER = ["idle", "done", "stopped", "aborted", "failed"];

    // What this page knows: the newest snapshot and all losses and learning rates of its run.
    const seen = {snapshot: null, run: null, cursor: 0, losses: [], rates: [], preview: null, picture: null, lost: ""};
    // What was last drawn, so that nothing is drawn twice and an error the user has seen to does not come back.
    const drawn = {problems: "", saved: "", notices: "", offers: ""};
    let asking = false;
    let askedAt = 0;

    const page = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const find = (selector) => page().querySelector(selector);
    const key = () => find(".lora-ext-panel")?.dataset.key ?? "";
    const slot = (name) => find(`.lora-ext-panel [data-slot="${name}"]`);
    const visible = (element) => element !== null && element.getClientRects().length > 0;
    const busy = () => seen.snapshot !== null && !OVER.includes(seen.snapshot.state);

    function make(tag, className, text) {
        const element = document.createElement(tag);
        if (className) element.className = className;
        if (text !== undefined) element.textContent = text;
        return element;
    }

    // Writing an unchanged text would make a screen reader say it again.
    function write(name, text) {
        const place = slot(name);
        if (place && place.textContent !== text) place.textContent = text;
    }

    // ---- for all our scripts ----------------------------------------------------------------------------------

    const STEPS = ["pictures", "goal", "train", "choose"].map((name) => `lora_ext_step_${name}`);
    const STEP_KEY = "lora_ext_step";
    const listeners = [];
    let shown = "";

    // Both throw on a lost connection; a refusal is an answer like any other.
    const get = (path) => fetch(BASE + path, {headers: {[KEY_HEADER]: key()}, cache: "no-store"});

    function send(method, path, body) {
        const headers = {[KEY_HEADER]: key()};
        if (body !== undefined) headers["content-type"] = "application/json";
        return fetch(BASE + path, {method, headers, body: body === undefined ? undefined : JSON.stringify(body)});
    }

    // The sentence in the page's language: what is looked up is the English template, `{0}` is the first value.
    function t(text, ...values) {
        const told = window.localization?.[text] || text;
        return told.replace(/\{(\d+)\}/g, (whole, n) => (n < values.length ? String(values[n]) : whole));
    }

    // A sentence of the server's in the page's language, as far as it is known.
    const said = (text) => window.loraExtSaid?.(text) ?? text;

    // A sentence that names its setting itself needs no name before it.
    function problemText(p) {
        const [label, text] = [t(p.label), said(p.text)];
        return p.label && !text.startsWith(label) ? t("{0}: {1}", label, text) : text;
    }

    // `callback(step)` is called with the id of the step that comes into sight, now and whenever another one does.
    function onTab(callback) {
        listeners.push(callback);
        if (shown) callback(shown);
    }

    // The script keeps which step is open; the style sheet hides the others.
    function watchTabs() {
        const home = find("#lora_ext");
        if (!home) return;
        if (home.dataset.step !== step) mark(home);
        if (!home.dataset.spoken) speak(home);
        const now = visible(home) ? step : "";
        if (now === shown) return;
        shown = now;
        if (now) listeners.forEach((callback) => callback(now));
    }

    // Labels that only a screen reader tells, which the WebUI's own localization leaves in English.
    function speak(home) {
        home.dataset.spoken = "yes";
        for (const element of home.querySelectorAll("[aria-label]")) {
            element.setAttribute("aria-label", t(element.getAttribute("aria-label")));
        }
    }

    function openStep(id) {
        step = id;
        remember(id);
        watchTabs();
    }

    // Go to another step by a button that is in none of its tabs.
    function goTo(id) {
        openStep(id);
        find(`#${id}-button`)?.focus({preventScroll: true});
        find("#lora_ext_steps")?.scrollIntoView({block: "nearest"});
    }

    // The head of a step, and how the run is; on a phone that is below.
    function toSight() {
        find("#lora_ext_steps")?.scrollIntoView({block: "nearest"});
        find(".lora-ext-panel .lora-ext-head")?.scrollIntoView({block: "nearest"});
    }

    function mark(home) {
        home.dataset.step = step;
        for (const id of STEPS) {
            const [button, place] = [find(`#${id}-button`), find(`#${id}`)];
            button?.setAttribute("aria-selected", String(id === step));
            button?.setAttribute("tabindex", id === step ? "0" : "-1");
            place?.setAttribute("role", "tabpanel");
            place?.setAttribute("aria-labelledby", `${id}-button`);
        }
    }

    // A reloaded page opens where it was; a browser may forbid it.
    function remember(id) {
        try {
            sessionStorage.setItem(STEP_KEY, id);
        } catch { /* then it opens at the first step */ }
    }

    function remembered() {
        try {
            return STEPS.find((id) => id === sessionStorage.getItem(STEP_KEY)) ?? STEPS[0];
        } catch {
            return STEPS[0];
        }
    }

    let step = remembered();

    document.addEventListener("click", (event) => {
        const button = event.target.closest?.(".lora-ext-tabs [role=tab]");
        if (button) openStep(button.getAttribute("aria-controls"));
        const onward = event.target.closest?.("#lora_ext [data-open]");
        if (onward) goTo(onward.dataset.open);
    });

    document.addEventListener("keydown", (event) => {
        const button = event.target.closest?.(".lora-ext-tabs [role=tab]");
        const at = STEPS.indexOf(button?.getAttribute("aria-controls"));
        const to = {ArrowRight: at + 1, ArrowLeft: at - 1 + STEPS.length, Home: 0, End: STEPS.length - 1}[event.key];
        if (!button || to === undefined) return;
        event.preventDefault();
        openStep(STEPS[to % STEPS.length]);
        find(`#${step}-button`)?.focus();
    });

    // `callback(seen)` is called with every answer about the job, and `callback(seen)` again when the step is drawn.
    const watchers = [];
    const onJob = (callback) => watchers.push(callback);

    window.loraExt = {
        key, get, send, page, make, t, said, problemText, onTab, openStep, step: () => step, toSight, onJob, smooth, rate, duration,
        busy, confirmed,
    };

    // ---- asking -----------------------------------------------------------------------------------------------

    function tick() {
        const panel = find(".lora-ext-panel");
        if (!visible(panel) || document.hidden || !window.loraExtReply) return;
        watchTabs();
        if (window.loraExtReply.tick()) askedAt = 0;
        if (seen.snapshot) draw();
        if (Date.now() - askedAt >= EVERY[busy() ? "busy" : "idle"] - 50) ask();
    }

    async function ask() {
        if (asking) return;
        asking = true;
        askedAt = Date.now();
        try {
            const answer = await get(`job?after=${seen.cursor}`);
            if (answer.status === 403) return lost(t("The server was restarted. Reload this page."));
            if (!answer.ok) return lost(t("The server answered with an error ({0}).", answer.status));
            seen.lost = "";
            const ok = take(await answer.json());
            if (ok) await showPreview();
            draw();
        } catch (error) {
            lost(t("No connection to the server. Trying again…"));
        } finally {
            asking = false;
        }
    }

    function lost(text) {
        seen.lost = text;
        window.loraExtReply.waitNoMore();
        const panel = find(".lora-ext-panel");
        if (panel) panel.dataset.state = "lost";
        write("state", text);
    }

    // False when the losses were asked for from the middle of another run: then all of them are asked for next.
    function take(snapshot) {
        const first = seen.snapshot === null;
        if (snapshot.run !== seen.run) {
            const whole = seen.cursor === 0;
            Object.assign(seen, {run: snapshot.run, cursor: 0, losses: [], rates: []});
            if (!whole) {
                askedAt = 0;
                return false;
            }
        }
        const before = seen.snapshot?.state;
        seen.snapshot = snapshot;
        seen.losses.push(...snapshot.losses);
        seen.rates.push(...snapshot.rates);
        seen.cursor = snapshot.cursor;
        if (first && snapshot.run) find("#lora_ext_restore")?.click();
        if (first || before !== snapshot.state) askOffers();
        const problems = snapshot.run + JSON.stringify(snapshot.problems);
        if (drawn.problems !== problems) {
            if (snapshot.problems.length) window.loraExtReply.show(snapshot.problems, false);
            drawn.problems = problems;
        }
        return true;
    }

    async function showPreview() {
        const preview = seen.snapshot.preview;
        const id = preview && `${seen.run}/${preview.id}`;
        if (id === seen.preview) return;
        if (preview) {
            const answer = await get(`preview/${preview.id}`);
            if (!answer.ok) return;
            const address = URL.createObjectURL(await answer.blob());
            if (seen.picture) URL.revokeObjectURL(seen.picture);
            seen.picture = address;
        }
        seen.preview = id;
    }

    // ---- drawing ----------------------------------------------------------------------------------------------

    function draw() {
        const job = seen.snapshot;
        const panel = find(".lora-ext-panel");
        if (!job || !panel || seen.lost) return;
        panel.dataset.state = job.state;
        write("state", stateText(job));
        write("count", countText(job));
        drawBar(panel.querySelector(".lora-ext-bar"), job);
        drawFacts(job);
        write("problem", job.problems.map(problemText).join("\n"));
        drawSaved(job);
        drawNotices(job);
        drawPicture(job);
        drawChart();
        drawButtons(job);
        setDisabled("#lora_ext_start", busy());
        watchers.forEach((callback) => callback(seen));
    }

    // What may be wished in each state; the rest is not shown at all.
    const POSSIBLE = {
        running: ["pause", "save", "preview", "stop", "abort"],
        pausing: ["resume", "stop", "abort"],
        paused: ["resume", "stop", "abort"],
    };

    function drawButtons(job) {
        const home = find(".lora-ext-steer");
        const possible = POSSIBLE[job.state] ?? [];
        if (!home) return;
        home.hidden = !possible.length;
        const focused = home.contains(document.activeElement) ? document.activeElement : null;
        for (const button of home.querySelectorAll("[data-wish]")) {
            button.hidden = !possible.includes(button.dataset.wish);
        }
        // The focus must not vanish with its button.
        if (focused?.hidden) (home.querySelector("[data-wish]:not([hidden])") ?? find("#lora_ext_start"))?.focus();
    }

    // Ask for something to be done with the job; what comes of it is drawn at the next answer.
    async function wish(name) {
        try {
            const answer = await send("POST", `job/${name}`);
            write("told", answer.ok ? t(TOLD[name] ?? "") : t("The server refused. Reload this page."));
        } catch {
            write("told", t("No connection to the server: nothing was changed."));
        }
        askedAt = 0;
        tick();
    }

    const TOLD = {
        save: "A file is saved when the step is whole.",
        preview: "A preview is rendered when the step is whole.",
    };

    // A question with two buttons; resolves to whether the first one was pressed. Esc is a no.
    function confirmed(question, yes, no) {
        const dialog = make("dialog", "lora-ext-ask");
        const [text, buttons] = [make("p", "", question), make("div", "lora-ext-asked")];
        const [first, second] = [make("button", "lora-ext-button lora-ext-danger", yes), make("button", "lora-ext-button", no)];
        const back = document.activeElement;
        text.id = "lora_ext_question";
        dialog.setAttribute("aria-labelledby", text.id);
        buttons.append(first, second);
        dialog.append(text, buttons);
        (find("#lora_ext") ?? document.body).append(dialog);
        return new Promise((resolve) => {
            first.addEventListener("click", () => dialog.close("yes"));
            second.addEventListener("click", () => dialog.close());
            dialog.addEventListener("close", () => {
                dialog.remove();
                back?.focus?.();
                resolve(dialog.returnValue === "yes");
            });
            dialog.showModal();
            second.focus();
        });
    }

    document.addEventListener("click", async (event) => {
        const button = event.target.closest?.(".lora-ext-steer [data-wish]");
        if (!button) return;
        const name = button.dataset.wish;
        const question = t("Abort the training? Nothing of it is saved but the files that are there already.");
        if (name === "abort" && !(await confirmed(question, t("Abort, save nothing"), t("Go on training")))) return;
        await wish(name);
    });

    // ---- runs that were broken off ------------------------------------------------------------------------------

    async function askOffers() {
        try {
            const answer = await get("offers");
            if (answer.ok) drawOffers(await answer.json());
        } catch { /* asked again when the job changes */ }
    }

    function drawOffers(offers) {
        const place = slot("offers");
        const sign = JSON.stringify([busy(), offers.map((offer) => [offer.id, offer.name, offer.step])]);
        if (!place || drawn.offers === sign) return;
        drawn.offers = sign;
        place.replaceChildren(...(busy() ? [] : offers.map(offerRow)));
    }

    function offerRow(offer) {
        const row = make("p");
        const text = offer.step === null
            ? t("{0} was broken off before its state was saved.", offer.name)
            : t("{0} was broken off; its state of step {1} is saved.", offer.name, offer.step);
        const button = make("button", "lora-ext-button", offer.step === null ? t("Begin again") : t("Go on from there"));
        button.type = "button";
        button.addEventListener("click", () => accept(offer));
        row.append(make("span", "", text), button);
        return row;
    }

    async function accept(offer) {
        try {
            const [path, body] = offer.id ? [`jobs/${offer.id}/resume`] : ["offers/resume", {name: offer.name}];
            const answer = await send("POST", path, body);
            if (!answer.ok) write("told", (await answer.json()).problems.map(problemText).join("\n"));
            else {
                write("told", "");
                openStep(STEPS[2]);
                toSight();
            }
        } catch {
            write("told", t("No connection to the server: nothing was changed."));
        }
        drawn.offers = "";
        askedAt = 0;
        askOffers();
    }

    // Every picture is looked at before a run is accepted.
    const reading = () => !busy() && Boolean(window.loraExtReply?.waits());

    function stateText(job) {
        if (reading()) return t("Reading the pictures…");
        switch (job.state) {
        case "running": return job.stage.name ? t("{0}…", t(job.stage.name)) : t("Starting…");
        case "pausing": return t("Pausing when the step is whole…");
        case "paused": return t("Paused. The model is free: try what is saved.");
        case "stopping": return t("Stopping, and keeping what it has learnt…");
        case "done": return t("{0}: done.", job.name);
        case "stopped": return t("{0}: stopped.", job.name);
        case "aborted": return t("{0}: aborted.", job.name);
        case "failed": return t("{0}: training failed.", job.name);
        default: return t("Nothing is being trained.");
        }
    }

    const training = (job) => job.step > 0 || !job.stage.total;

    function countText(job) {
        if (job.state === "idle" || reading()) return "";
        if (job.state === "running" && !training(job)) return t("{0} / {1}", job.stage.done, job.stage.total);
        return job.total ? t("step {0} of {1}", job.step, job.total) : "";
    }

    function drawBar(bar, job) {
        const [done, total] = reading() ? [0, 0] : training(job) ? [job.step, job.total] : [job.stage.done, job.stage.total];
        const percent = total ? Math.min(100, Math.round((100 * done) / total)) : 0;
        bar.classList.toggle("lora-ext-unknown", (busy() || reading()) && !total);
        bar.setAttribute("aria-valuenow", String(percent));
        bar.firstElementChild.style.width = `${percent}%`;
    }

    function drawFacts(job) {
        const time = busy() ? job.eta : job.seconds || null;
        write("epoch", job.epochs ? t("{0} of {1}", job.epoch, job.epochs) : "–");
        write("loss", job.loss_mean === null ? "–" : job.loss_mean.toPrecision(3));
        write("rate", job.learning_rate === null ? "–" : rate(job.learning_rate));
        write("clock", busy() || job.state === "idle" ? t("Time left") : t("Time taken"));
        write("left", time === null ? "–" : duration(time));
        write("speed", job.speed === null ? "–" : speed(job.speed));
        fact("memory", job.memory === null ? "" : t("{0} GB", (job.memory / 2 ** 30).toFixed(1)));
        const held = job.validation[job.validation.length - 1];
        fact("held", held ? held[1].toPrecision(3) : "");
    }

    // One that there is nothing to say about is not shown.
    function fact(name, text) {
        write(name, text);
        const home = slot(name)?.parentElement;
        if (home) home.hidden = !text;
    }

    function speed(perSecond) {
        return perSecond >= 1 ? t("{0} it/s", perSecond.toPrecision(3)) : t("{0} s/it", (1 / perSecond).toPrecision(3));
    }

    function rate(value) {
        return value !== 0 && value < 0.001 ? value.toExponential(1).replace(".0e", "e") : String(Number(value.toPrecision(3)));
    }

    function duration(seconds) {
        const s = Math.max(0, Math.round(seconds));
        const [hours, minutes] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60)];
        if (hours) return t("{0} h {1} min", hours, String(minutes).padStart(2, "0"));
        return minutes ? t("{0} min {1} s", minutes, String(s % 60).padStart(2, "0")) : t("{0} s", s);
    }

    function drawSaved(job) {
        const place = slot("saved");
        const last = job.saved[job.saved.length - 1];
        const sign = JSON.stringify([job.run, last]);
        if (!place || (drawn.saved === sign && Boolean(place.childElementCount) === Boolean(last))) return;
        drawn.saved = sign;
        place.replaceChildren();
        if (!last) return;
        const use = make("p");
        use.append(
            make("span", "", last.final ? t("Saved. To use it, write in a prompt:") : t("Saved at step {0}:", last.step)),
            " ",
            make("code", "", `<lora:${last.name}:0.7>`),
        );
        place.append(use, make("p", "lora-ext-path", last.path));
        if (last.final && job.saved.length > 1) place.append(chooser());
    }

    function chooser() {
        const button = make("button", "lora-ext-button", t("Which one is the best?"));
        button.type = "button";
        button.dataset.open = STEPS[3];
        return button;
    }

    function drawNotices(job) {
        const place = slot("notices");
        const sign = JSON.stringify([job.run, job.notices]);
        if (!place || (drawn.notices === sign && place.childElementCount === job.notices.length)) return;
        drawn.notices = sign;
        place.replaceChildren(...job.notices.map((text) => make("li", "", said(text))));
    }

    function drawPicture(job) {
        const place = slot("preview");
        if (!place) return;
        if (!job.preview || !seen.picture || seen.preview === null) {
            if (!place.querySelector(".lora-ext-empty")) place.replaceChildren(make("p", "lora-ext-empty", t("Previews appear here.")));
            return;
        }
        if (place.querySelector("img")?.src === seen.picture) return;
        const link = make("a");
        Object.assign(link, {href: seen.picture, target: "_blank", title: t("Open in full size")});
        const image = make("img");
        Object.assign(image, {src: seen.picture, alt: t("Preview at step {0}: {1}", job.preview.step, job.preview.prompt)});
        link.append(image);
        place.replaceChildren(link, make("figcaption", "", t("Step {0} · {1}", job.preview.step, job.preview.prompt)));
    }

    function setDisabled(selector, disabled) {
        const element = find(selector);
        const button = element?.matches("button") ? element : element?.querySelector("button");
        if (button && button.disabled !== disabled) button.disabled = disabled;
    }

    // ---- the chart --------------------------------------------------------------------------------------------

    // Exponential mean, corrected for its start, over about a twentieth of the run.
    function smooth(points) {
        const keep = 1 - 1 / Math.max(1, Math.min(100, points.length / 20));
        let sum = 0;
        let weight = 0;
        return points.map(([step, loss]) => {
            sum = keep * sum + (1 - keep) * loss;
            weight = keep * weight + (1 - keep);
            return [step, sum / weight];
        });
    }

    function drawChart() {
        const place = slot("chart");
        if (!place || !window.loraExtChart) return;
        const points = seen.losses;
        const mean = smooth(points);
        const now = mean.length ? mean[mean.length - 1][1].toPrecision(3) : "";
        const made = window.loraExtChart(place, {
            title: (first, last) => t("Loss from step {0} to {1}, now about {2}", first, last, now),
            lines: [{kind: "raw", name: "Loss", points}, {kind: "mean", name: "Smoothed", points: mean}],
            key: seen.run,
        });
        if (!made && !place.querySelector(".lora-ext-empty")) {
            place.replaceChildren(make("p", "lora-ext-empty", t("The loss curve appears here.")));
        }
    }

    setInterval(tick, 250);
})();
