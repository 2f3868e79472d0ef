// Shows the training job in its tab. The job lives in the server; this script asks for its state once a second while
// the tab is visible and draws it, so a reloaded page or a second one shows the same run.
(() => {
    "use strict";
    if (window.loraExtLoaded) return;
    window.loraExtLoaded = true;

    const BASE = "lora-ext/v1/page/";
    const KEY_HEADER = "x-lora-ext-key";
    const EVERY = {busy: 1000, idle: 3000};
    const CHART_HEIGHT = 200;
    const MARGIN = {left: 46, right: 16, top: 10, bottom: 24};

    // What this page knows: the newest snapshot and all losses of its run.
    const seen = {snapshot: null, run: null, cursor: 0, losses: [], preview: null, picture: null, lost: ""};
    // What was last drawn, so that nothing is drawn twice and an error the user has seen to does not come back.
    const drawn = {reply: "", problems: "", chart: "", saved: "", notices: ""};
    let waiting = []; // problems whose fields are not in sight yet
    let fresh = false; // until the first of them is brought to sight
    let asking = false;
    let askedAt = 0;

    const page = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const find = (selector) => page().querySelector(selector);
    const key = () => find(".lora-ext-panel")?.dataset.key ?? "";
    const slot = (name) => find(`.lora-ext-panel [data-slot="${name}"]`);
    const visible = (element) => element !== null && element.getClientRects().length > 0;
    const busy = () => seen.snapshot !== null && ["running", "stopping"].includes(seen.snapshot.state);

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
        const now = visible(home) ? step : "";
        if (now === shown) return;
        shown = now;
        if (now) listeners.forEach((callback) => callback(now));
    }

    function openStep(id) {
        step = id;
        remember(id);
        watchTabs();
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

    window.loraExt = {key, get, send, page, make, t, onTab, openStep};

    // ---- asking -----------------------------------------------------------------------------------------------

    function tick() {
        const panel = find(".lora-ext-panel");
        if (!visible(panel) || document.hidden) return;
        watchTabs();
        readReply();
        placeProblems();
        if (seen.snapshot) draw();
        if (Date.now() - askedAt >= EVERY[busy() ? "busy" : "idle"] - 50) ask();
    }

    async function ask() {
        if (asking) return;
        asking = true;
        askedAt = Date.now();
        try {
            const answer = await get(`job?after=${seen.cursor}`);
            if (answer.status === 403) return lost("The server was restarted. Reload this page.");
            if (!answer.ok) return lost(`The server answered with an error (${answer.status}).`);
            seen.lost = "";
            const ok = take(await answer.json());
            if (ok) await showPreview();
            draw();
        } catch (error) {
            lost("No connection to the server. Trying again…");
        } finally {
            asking = false;
        }
    }

    function lost(text) {
        seen.lost = text;
        const panel = find(".lora-ext-panel");
        if (panel) panel.dataset.state = "lost";
        write("state", text);
    }

    // False when the losses were asked for from the middle of another run: then all of them are asked for next.
    function take(snapshot) {
        const first = seen.snapshot === null;
        if (snapshot.run !== seen.run) {
            const whole = seen.cursor === 0;
            Object.assign(seen, {run: snapshot.run, cursor: 0, losses: []});
            if (!whole) {
                askedAt = 0;
                return false;
            }
        }
        seen.snapshot = snapshot;
        seen.losses.push(...snapshot.losses);
        seen.cursor = snapshot.cursor;
        if (first && snapshot.run) find("#lora_ext_restore")?.click();
        const problems = snapshot.run + JSON.stringify(snapshot.problems);
        if (drawn.problems !== problems) {
            if (snapshot.problems.length) showProblems(snapshot.problems);
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

    // ---- messages beside the fields ---------------------------------------------------------------------------

    // The answer to the last click, put by gradio into its own box.
    function readReply() {
        const reply = find(".lora-ext-reply");
        if (!reply || reply.dataset.id === drawn.reply) return;
        const firstSight = drawn.reply === "";
        drawn.reply = reply.dataset.id;
        if (firstSight) return;
        askedAt = 0;
        showProblems(JSON.parse(reply.dataset.problems));
    }

    function showProblems(problems) {
        page().querySelectorAll(".lora-ext-error").forEach((message) => clear(message.parentElement));
        waiting = problems.filter((problem) => problem.field);
        fresh = true;
    }

    function placeProblems() {
        if (!waiting.length) return;
        if (fresh && !waiting.some((problem) => visible(field(problem)))) openStep(stepOf(waiting[0]));
        const here = waiting.filter((problem) => stepOf(problem) === shown);
        here.forEach((problem) => window.loraExtSettings?.reveal(problem.field)); // a search may have hidden it
        if (here.some((problem) => !visible(field(problem)))) openMore();
        const placed = here.filter(place);
        waiting = waiting.filter((problem) => !placed.includes(problem));
        if (fresh && placed.length) bringToSight(field(placed[0]));
        fresh &&= !placed.length;
    }

    // The step whose field it is; one that is in no step yet (its page is not drawn) is looked for in the second.
    function stepOf(problem) {
        return field(problem)?.closest(STEPS.map((id) => `#${id}`).join())?.id ?? STEPS[1];
    }

    function bringToSight(home) {
        home.scrollIntoView({block: "center", behavior: "smooth"});
        home.querySelector("input, textarea, select")?.focus({preventScroll: true});
    }

    const field = (problem) => find(`#lora_ext_field_${CSS.escape(problem.field)}`);

    function place(problem) {
        const home = field(problem);
        if (!visible(home)) return false;
        let message = home.querySelector(".lora-ext-error");
        if (!message) {
            message = make("div", "lora-ext-error");
            message.id = `${home.id}_error`;
            message.setAttribute("role", "alert");
            home.append(message);
            home.addEventListener("input", () => clear(home), {once: true});
            home.addEventListener("change", () => clear(home), {once: true});
        }
        message.textContent = [message.textContent, problem.text].filter(Boolean).join(" ");
        const input = home.querySelector("input, textarea, select");
        input?.setAttribute("aria-invalid", "true");
        input?.setAttribute("aria-describedby", message.id);
        find(`.lora-ext-reply li[data-field="${CSS.escape(problem.field)}"]`)?.setAttribute("hidden", "");
        return true;
    }

    function clear(home) {
        home.querySelectorAll(".lora-ext-error").forEach((message) => message.remove());
        home.querySelectorAll("[aria-invalid]").forEach((input) => {
            input.removeAttribute("aria-invalid");
            input.removeAttribute("aria-describedby");
        });
    }

    function openMore() {
        const header = find("#lora_ext_more .label-wrap");
        if (header && !header.classList.contains("open")) header.click();
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
        write("problem", job.problems.map((p) => [p.label, p.text].filter(Boolean).join(": ")).join("\n"));
        drawSaved(job);
        drawNotices(job);
        drawPicture(job);
        drawChart();
        setDisabled("#lora_ext_start", busy());
        setDisabled("#lora_ext_stop", job.state !== "running");
    }

    function stateText(job) {
        const named = (word) => (job.name ? `${job.name}: ${word}` : word);
        switch (job.state) {
        case "running": return job.stage.name ? `${job.stage.name}…` : "Starting…";
        case "stopping": return "Stopping, and keeping what it has learnt…";
        case "done": return named("done.");
        case "stopped": return named("stopped.");
        case "failed": return named("training failed.");
        default: return "Nothing is being trained.";
        }
    }

    const training = (job) => job.step > 0 || !job.stage.total;

    function countText(job) {
        if (job.state === "idle") return "";
        if (job.state === "running" && !training(job)) return `${job.stage.done} / ${job.stage.total}`;
        return job.total ? `step ${job.step} of ${job.total}` : "";
    }

    function drawBar(bar, job) {
        const [done, total] = training(job) ? [job.step, job.total] : [job.stage.done, job.stage.total];
        const percent = total ? Math.min(100, Math.round((100 * done) / total)) : 0;
        bar.classList.toggle("lora-ext-unknown", busy() && !total);
        bar.setAttribute("aria-valuenow", String(percent));
        bar.firstElementChild.style.width = `${percent}%`;
    }

    function drawFacts(job) {
        const time = busy() ? job.eta : job.seconds || null;
        write("epoch", job.epochs ? `${job.epoch} of ${job.epochs}` : "–");
        write("loss", job.loss_mean === null ? "–" : job.loss_mean.toPrecision(3));
        write("rate", job.learning_rate === null ? "–" : rate(job.learning_rate));
        write("clock", busy() || job.state === "idle" ? "Time left" : "Time taken");
        write("left", time === null ? "–" : duration(time));
    }

    function rate(value) {
        return value !== 0 && value < 0.001 ? value.toExponential(1).replace(".0e", "e") : String(Number(value.toPrecision(3)));
    }

    function duration(seconds) {
        const s = Math.max(0, Math.round(seconds));
        const [hours, minutes] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60)];
        if (hours) return `${hours} h ${String(minutes).padStart(2, "0")} min`;
        return minutes ? `${minutes} min ${String(s % 60).padStart(2, "0")} s` : `${s} s`;
    }

    function drawSaved(job) {
        const place = slot("saved");
        const last = job.saved[job.saved.length - 1];
        const sign = JSON.stringify([job.run, last]);
        if (!place || (drawn.saved === sign && place.childElementCount === (last ? 2 : 0))) return;
        drawn.saved = sign;
        place.replaceChildren();
        if (!last) return;
        const use = make("p", "", last.final ? "Saved. To use it, write in a prompt: " : `Saved at step ${last.step}: `);
        use.append(make("code", "", `<lora:${last.name}:0.7>`));
        place.append(use, make("p", "lora-ext-path", last.path));
    }

    function drawNotices(job) {
        const place = slot("notices");
        const sign = JSON.stringify([job.run, job.notices]);
        if (!place || (drawn.notices === sign && place.childElementCount === job.notices.length)) return;
        drawn.notices = sign;
        place.replaceChildren(...job.notices.map((text) => make("li", "", text)));
    }

    function drawPicture(job) {
        const place = slot("preview");
        if (!place) return;
        if (!job.preview || !seen.picture || seen.preview === null) {
            if (!place.querySelector(".lora-ext-empty")) place.replaceChildren(make("p", "lora-ext-empty", "Previews appear here."));
            return;
        }
        if (place.querySelector("img")?.src === seen.picture) return;
        const link = make("a");
        Object.assign(link, {href: seen.picture, target: "_blank", title: "Open in full size"});
        const image = make("img");
        Object.assign(image, {src: seen.picture, alt: `Preview at step ${job.preview.step}: ${job.preview.prompt}`});
        link.append(image);
        place.replaceChildren(link, make("figcaption", "", `Step ${job.preview.step} · ${job.preview.prompt}`));
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
        if (!place) return;
        const points = seen.losses.filter(([, loss]) => Number.isFinite(loss));
        const width = Math.floor(place.clientWidth);
        const sign = `${seen.run}/${points.length}/${width}`;
        if (drawn.chart === sign && place.childElementCount === 1) return;
        drawn.chart = sign;
        if (points.length < 2) {
            place.replaceChildren(make("p", "lora-ext-empty", "The loss curve appears here."));
        } else {
            place.innerHTML = chart(points, width);
        }
    }

    // Numbers only go into this HTML, nothing a user wrote.
    function chart(points, width) {
        const mean = smooth(points);
        const losses = points.map(([, loss]) => loss).sort((a, b) => a - b);
        // A single spike must not press the curve flat.
        const top = Math.max(losses[Math.floor(0.98 * (losses.length - 1))], ...ends(mean)) * 1.05 || 1;
        const low = Math.min(losses[0], top) * 0.95;
        const last = points[points.length - 1][0];
        const first = points[0][0] < last / 10 ? 0 : points[0][0];
        const right = width - MARGIN.right;
        const bottom = CHART_HEIGHT - MARGIN.bottom;
        const x = (step) => MARGIN.left + ((step - first) / Math.max(1, last - first)) * (right - MARGIN.left);
        const y = (loss) => bottom - ((Math.min(loss, top) - low) / (top - low || 1)) * (bottom - MARGIN.top);
        const path = (some) => thin(some, width).map(([s, l], i) => `${i ? "L" : "M"}${x(s).toFixed(1)} ${y(l).toFixed(1)}`).join("");
        const rows = ticks(low, top, 4).map((value) =>
            `<line x1="${MARGIN.left}" x2="${right}" y1="${y(value)}" y2="${y(value)}"/>` +
            `<text x="${MARGIN.left - 6}" y="${y(value) + 4}" text-anchor="end">${short(value)}</text>`);
        const columns = ticks(first, last, Math.max(3, Math.floor(width / 90))).map((value) =>
            `<text x="${x(value)}" y="${CHART_HEIGHT - 6}" text-anchor="middle">${short(value)}</text>`);
        const label = `Loss from step ${first} to ${last}, now about ${mean[mean.length - 1][1].toPrecision(3)}`;
        return `<svg role="img" aria-label="${label}" width="${width}" height="${CHART_HEIGHT}">` +
            `<g class="lora-ext-grid">${rows.join("")}${columns.join("")}</g>` +
            `<path class="lora-ext-raw" d="${path(points)}"/><path class="lora-ext-mean" d="${path(mean)}"/></svg>`;
    }

    const ends = (points) => [points[0][1], points[points.length - 1][1]];

    function thin(points, most) {
        const stride = Math.ceil(points.length / Math.max(50, most));
        return stride === 1 ? points : points.filter((_, i) => i % stride === 0 || i === points.length - 1);
    }

    // Round numbers between two ends, about `count` of them.
    function ticks(low, high, count) {
        const rough = (high - low) / count || 1;
        const power = 10 ** Math.floor(Math.log10(rough));
        const size = power * [1, 2, 5, 10].find((m) => m * power >= rough);
        const out = [];
        for (let value = Math.ceil(low / size) * size; value <= high + size * 1e-9; value += size) out.push(value);
        return out;
    }

    const short = (value) => String(Number(value.toPrecision(3)));

    setInterval(tick, 250);
})();
