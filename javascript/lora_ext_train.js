// Step 3, Train: the queue, the charts, the previews over steps and prompts, and the log.
(() => {
    "use strict";
    if (window.loraExtTrain) return;
    window.loraExtTrain = true;

    const AT_ONCE = 4; // thumbnails asked for at the same time
    const {get, send, page, make, t, said, onTab, onJob, smooth, rate, busy} = window.loraExt;

    // What this page knows, and what it last drew of it.
    const known = {run: null, line: 0, lines: [], newest: null, previews: [], thumbs: new Map()};
    const drawn = {queue: "", previews: "", log: ""};
    const asked = {queue: 0, log: false, previews: false};
    let order = []; // ids of what waits, as it will be when all that was pressed is done
    let open = false;
    let loading = 0;
    let generation = 0; // of thumbnails: those of an earlier run that come late are left alone

    const part = (name) => page().querySelector(`#lora_ext_train [data-train="${name}"]`);

    function button(text, label, act) {
        const made = make("button", "lora-ext-button", text);
        made.type = "button";
        if (label) made.setAttribute("aria-label", label);
        made.addEventListener("click", act);
        return made;
    }

    // ---- the queue --------------------------------------------------------------------------------------------

    const PLACES = {
        "waiting": "waits", "running": "runs now", "broken off": "broken off", "done": "done", "stopped": "stopped",
        "aborted": "aborted", "failed": "failed",
    };
    const LEFT = ["waiting", "broken off"];

    async function askQueue() {
        asked.queue = Date.now();
        try {
            const answer = await get("jobs");
            if (answer.ok) drawQueue(await answer.json());
        } catch { /* the panel says that there is no connection */ }
    }

    async function change(method, path, body) {
        try {
            const answer = await send(method, path, body);
            const found = await answer.json();
            if (answer.ok) return drawQueue(found);
            tellTrouble((found.problems ?? []).map((p) => said(p.text)).join("\n") || t("The server refused. Reload this page."));
        } catch {
            tellTrouble(t("No connection to the server: nothing was changed."));
        }
        return undefined;
    }

    function tellTrouble(text) {
        const place = part("trouble");
        if (place && place.textContent !== text) place.textContent = text;
    }

    function drawQueue(queue) {
        const place = part("queue");
        const sign = JSON.stringify(queue);
        if (!place || (drawn.queue === sign && place.childElementCount)) return;
        drawn.queue = sign;
        const waiting = queue.jobs.filter((job) => LEFT.includes(job.place));
        order = waiting.map((job) => job.id);
        const focus = place.contains(document.activeElement) ? document.activeElement.dataset.act : null;
        place.replaceChildren(...queue.jobs.map((job) => row(job, waiting)));
        if (!queue.jobs.length) place.append(make("li", "lora-ext-empty", t("Nothing waits. “Add to queue” puts a job here.")));
        if (focus) (place.querySelector(`[data-act="${CSS.escape(focus)}"]`) ?? place.querySelector("button"))?.focus();
        tellTrouble(queue.trouble);
        const runs = queue.jobs.some((job) => job.place === "running");
        const ready = queue.jobs.some((job) => job.place === "waiting");
        show("start", ready && !queue.going || ready && !runs);
        show("hold", ready && queue.going && runs);
    }

    function show(name, wanted) {
        const found = page().querySelector(`#lora_ext_train [data-queue="${name}"]`);
        if (found) found.hidden = !wanted;
    }

    function row(job, waiting) {
        const made = make("li");
        made.dataset.place = job.place;
        const told = job.problems.map((p) => (p.label ? t("{0}: {1}", t(p.label), said(p.text)) : said(p.text))).join(" ");
        const words = make("span", "lora-ext-job");
        words.append(make("b", "", job.name), " ", make("span", "lora-ext-place", t(PLACES[job.place])));
        if (told) words.append(make("span", "lora-ext-why-not", told));
        made.append(words);
        const at = waiting.indexOf(job);
        if (at >= 0) made.append(...moves(job, waiting, at));
        if (job.place !== "running") {
            made.append(act(job, "remove", "✕", t("Remove {0}", job.name), () => change("DELETE", `jobs/${job.id}`)));
        }
        return made;
    }

    function act(job, name, sign, label, doing) {
        const made = button(sign, label, doing);
        made.title = label;
        made.dataset.act = `${name} ${job.id}`;
        return made;
    }

    function moves(job, waiting, at) {
        const by = (places) => () => {
            const to = Math.max(0, order.indexOf(job.id) + places);
            order = order.filter((id) => id !== job.id);
            order.splice(to, 0, job.id);
            change("PUT", "jobs/order", {order});
        };
        const up = act(job, "up", "↑", t("Move {0} up", job.name), by(-1));
        const down = act(job, "down", "↓", t("Move {0} down", job.name), by(1));
        up.disabled = at === 0;
        down.disabled = at === waiting.length - 1;
        return [up, down];
    }

    // ---- the charts -------------------------------------------------------------------------------------------

    function drawCharts(seen) {
        if (!window.loraExtChart || !seen.snapshot) return;
        const held = seen.snapshot.validation;
        const mean = smooth(seen.losses);
        const now = mean.length ? mean[mean.length - 1][1].toPrecision(3) : "";
        plot("loss", {
            title: (first, last) => t("Loss from step {0} to {1}, now about {2}", first, last, now),
            lines: [
                {kind: "raw", name: "Each step", points: seen.losses},
                {kind: "mean", name: "Smoothed", points: mean},
                {kind: "held", name: "Held-out pictures", points: held},
            ],
            height: 260, key: seen.run,
        }, t("The loss curve appears here."));
        plot("rate", {
            title: (first, last) => t("Learning rate from step {0} to {1}", first, last),
            lines: [{kind: "rate", name: "Learning rate", points: seen.rates}],
            height: 140, key: seen.run, write: fine,
        }, t("The learning rate appears here."));
    }

    // One digit more than the panel tells: the lines of a chart may lie close together.
    const fine = (value) => (value !== 0 && value < 0.001 ? Number(value.toPrecision(3)).toExponential() : rate(value));

    function plot(name, what, empty) {
        const place = part(name);
        if (!place || window.loraExtChart(place, what) || place.querySelector(".lora-ext-empty")) return;
        if (what.lines[0].points.length < 2) place.replaceChildren(make("p", "lora-ext-empty", empty));
    }

    // ---- the previews -----------------------------------------------------------------------------------------

    async function askPreviews() {
        if (asked.previews) return;
        asked.previews = true;
        try {
            const answer = await get("previews");
            if (!answer.ok) return;
            const found = await answer.json();
            if (found.run === known.run) known.previews = found.previews;
            drawPreviews();
        } catch { /* asked again with the next newest one */ } finally {
            asked.previews = false;
        }
    }

    // Steps go to the right, prompts downwards: with the same seed, a row shows what the training did.
    function drawPreviews() {
        const place = part("previews");
        const sign = JSON.stringify([known.run, known.previews]);
        if (!place || (drawn.previews === sign && place.childElementCount)) return;
        drawn.previews = sign;
        if (!known.previews.length) {
            place.replaceChildren(make("p", "lora-ext-empty", t("Previews appear here.")));
            return;
        }
        const atEnd = place.scrollLeft + place.clientWidth >= place.scrollWidth - 8;
        const prompts = [...new Set(known.previews.map((one) => one.prompt))];
        place.replaceChildren(...prompts.map((prompt) => strip(prompt, place)));
        if (atEnd) place.scrollLeft = place.scrollWidth;
        loadThumbs();
    }

    // Cells that are there already stay the same elements, so that the focus and the picture stay too.
    const cells = new Map();

    function strip(prompt) {
        const made = make("div", "lora-ext-strip");
        made.append(make("p", "lora-ext-prompt", prompt));
        const line = make("div", "lora-ext-cells");
        line.append(...known.previews.filter((one) => one.prompt === prompt).map(cell));
        made.append(line);
        return made;
    }

    function cell(one) {
        if (cells.has(one.id)) return cells.get(one.id);
        const made = make("button", "lora-ext-cell");
        made.type = "button";
        const picture = make("img");
        picture.alt = t("Preview at step {0}: {1}", one.step, one.prompt);
        made.append(picture, make("span", "", t("Step {0}", one.step)));
        made.addEventListener("click", () => enlarge(one.id));
        cells.set(one.id, made);
        return made;
    }

    function loadThumbs() {
        const mine = generation;
        for (const one of known.previews) {
            if (loading >= AT_ONCE) return;
            if (known.thumbs.has(one.id)) continue;
            known.thumbs.set(one.id, "");
            loading += 1;
            load(one.id, "?small=1").then((address) => {
                loading -= 1;
                if (mine !== generation) return;
                known.thumbs.set(one.id, address);
                const picture = cells.get(one.id)?.querySelector("img");
                if (picture && address) picture.src = address;
                loadThumbs();
            });
        }
    }

    async function load(id, size) {
        try {
            const answer = await get(`preview/${id}${size}`);
            return answer.ok ? URL.createObjectURL(await answer.blob()) : "";
        } catch {
            return "";
        }
    }

    // In full size over the page; the arrow keys go through the steps of a prompt and through the prompts, Esc closes.
    function enlarge(id) {
        const dialog = make("dialog", "lora-ext-viewer");
        const back = document.activeElement;
        const picture = make("img");
        const words = make("p");
        words.setAttribute("aria-live", "polite");
        const close = button(t("Close"), "", () => dialog.close());
        let at = known.previews.findIndex((one) => one.id === id);
        let address = "";

        async function present() {
            const one = known.previews[at];
            picture.alt = t("Preview at step {0}: {1}", one.step, one.prompt);
            words.textContent = t("Step {0} · {1}", one.step, one.prompt);
            if (!picture.src && known.thumbs.get(one.id)) picture.src = known.thumbs.get(one.id);
            const whole = await load(one.id, "");
            if (known.previews[at]?.id !== one.id || !dialog.isConnected) return URL.revokeObjectURL(whole);
            if (address) URL.revokeObjectURL(address);
            address = whole;
            if (whole) picture.src = whole;
            return undefined;
        }

        function go(by, same) {
            const here = known.previews[at];
            for (let n = at + by; n >= 0 && n < known.previews.length; n += by) {
                if (same(known.previews[n], here)) {
                    at = n;
                    present();
                    return;
                }
            }
        }

        const sameRow = (a, b) => a.prompt === b.prompt;
        const sameStep = (a, b) => a.step === b.step;
        const KEYS = {
            ArrowLeft: () => go(-1, sameRow), ArrowRight: () => go(1, sameRow),
            ArrowUp: () => go(-1, sameStep), ArrowDown: () => go(1, sameStep),
        };
        dialog.addEventListener("keydown", (event) => {
            if (!KEYS[event.key]) return;
            event.preventDefault();
            KEYS[event.key]();
        });
        dialog.addEventListener("click", (event) => {
            if (event.target === dialog) dialog.close();
        });
        dialog.addEventListener("close", () => {
            if (address) URL.revokeObjectURL(address);
            dialog.remove();
            back?.focus?.();
        });
        dialog.setAttribute("aria-label", t("Preview"));
        const before = button("←", t("Earlier step"), KEYS.ArrowLeft);
        const next = button("→", t("Later step"), KEYS.ArrowRight);
        const bar = make("div", "lora-ext-viewer-bar");
        bar.append(before, next, words, close);
        dialog.append(picture, bar);
        page().querySelector("#lora_ext").append(dialog);
        dialog.showModal();
        close.focus();
        present();
    }

    // ---- the log ----------------------------------------------------------------------------------------------

    async function askLog() {
        if (asked.log) return;
        asked.log = true;
        try {
            const answer = await get(`events?after=${known.line}`);
            if (!answer.ok) return;
            const found = await answer.json();
            if (found.run !== known.run) return;
            known.lines.push(...found.lines.filter((line) => line.n > known.line));
            known.line = known.lines[known.lines.length - 1]?.n ?? 0;
            drawLog();
        } catch { /* asked again when there is more */ } finally {
            asked.log = false;
        }
    }

    const clock = (line) => new Date(line.at * 1000).toLocaleTimeString();
    const sentence = (line) => (line.values.length ? t(line.text, ...line.values) : said(line.text));

    function drawLog() {
        const place = part("log");
        if (!place) return;
        const sign = `${known.run}/${known.lines.length}`;
        if (drawn.log === sign && place.childElementCount) return;
        const more = drawn.log.startsWith(`${known.run}/`) && !place.querySelector(".lora-ext-empty");
        drawn.log = sign;
        const atEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 8;
        const fresh = more ? known.lines.slice(place.childElementCount) : known.lines;
        if (!more) place.replaceChildren();
        place.append(...fresh.map(logLine));
        if (!known.lines.length) place.append(make("li", "lora-ext-empty", t("What happens is written here.")));
        if (atEnd) place.scrollTop = place.scrollHeight;
    }

    function logLine(line) {
        const made = make("li");
        made.dataset.kind = line.kind;
        made.append(make("time", "", clock(line)), " ", make("span", "", sentence(line)));
        return made;
    }

    async function copyLog() {
        const text = known.lines.map((line) => `${clock(line)}  ${sentence(line)}`).join("\n");
        const done = (await copied(text)) ? t("Copied.") : t("The browser did not allow it.");
        const place = part("copied");
        if (!place) return;
        place.textContent = done;
        setTimeout(() => { place.textContent = ""; }, 4000);
    }

    // Pages that are not from this machine or by https have no clipboard but the old one.
    async function copied(text) {
        try {
            await navigator.clipboard.writeText(text);
            return true;
        } catch {
            const box = make("textarea");
            box.value = text;
            part("log").parentElement.append(box);
            box.select();
            const done = document.execCommand("copy");
            box.remove();
            part("copy")?.focus();
            return done;
        }
    }

    // ---- what makes it go -------------------------------------------------------------------------------------

    function forget(run) {
        generation += 1;
        loading = 0;
        for (const address of known.thumbs.values()) if (address) URL.revokeObjectURL(address);
        cells.clear();
        Object.assign(known, {run, line: 0, lines: [], newest: null, previews: [], thumbs: new Map()});
    }

    onJob((seen) => {
        const job = seen.snapshot;
        if (!open || !part("queue")) return;
        if (job.run !== known.run) forget(job.run);
        if (job.lines > known.line) askLog();
        if ((job.preview?.id ?? null) !== known.newest) {
            known.newest = job.preview?.id ?? null;
            askPreviews();
        }
        drawCharts(seen);
        drawPreviews();
        drawLog();
        if (Date.now() - asked.queue > (busy() ? 1500 : 3000)) askQueue();
    });

    onTab((step) => {
        open = step === "lora_ext_step_train";
        if (open) askQueue();
    });

    document.addEventListener("click", (event) => {
        const pressed = event.target.closest?.("#lora_ext_train [data-queue], #lora_ext_train [data-train=copy]");
        if (!pressed) return;
        if (pressed.dataset.train) copyLog();
        else change("POST", `jobs/${pressed.dataset.queue}`);
    });

    window.loraExt.queueChanged = askQueue;
})();
