// Step 4, Choose: the runs and what they saved, and what of it shall be compared. The sheet itself and the form that
// picks one file are in scripts of their own, which find here what all three use.
(() => {
    "use strict";
    if (window.loraExtChoose) return;

    const MOST = 5; // saved steps that are ticked beforehand
    const STRENGTHS = [0, 0.3, 0.5, 0.7, 0.85, 1, 1.2];
    const TICKED = [0, 0.7, 1];
    const SIZES = {sd1: 512, sd2: 768, sdxl: 1024};
    const PLAIN = {negative: "", seed: 1, pictures: 1, steps: 20, cfg: 7};
    const NUMBERS = ["seed", "pictures", "steps", "cfg", "width", "height"];
    const TRAINS = ["running", "pausing", "stopping"];
    const KEEP = "lora_ext_choose_pace";
    const FORM = "lora_ext_choose_form";
    const {get, send, page, make, t, onTab, onJob} = window.loraExt;

    const known = {runs: [], run: "", byHand: false, touched: false, job: "", trains: "", sent: false, making: false};
    const redrawn = []; // called when what is saved has changed
    let wished = null; // what was last asked for, to learn from how long it takes
    let open = false;

    const part = (name) => page().querySelector(`#lora_ext_choose [data-choose="${name}"]`);
    const field = (name) => page().querySelector(`#lora_ext_choose [data-field="${name}"]`);
    const input = (name) => field(name)?.querySelector("input, textarea, select");
    const current = () => known.runs.find((run) => run.name === known.run);
    const number = (value) => String(Number(value.toPrecision(3)));

    const said = (text) => (window.loraExt.said ?? String)(text); // what the server says, in the page's language

    function button(text, className, act) {
        const made = make("button", `lora-ext-button ${className}`.trim(), text);
        made.type = "button";
        made.addEventListener("click", act);
        return made;
    }

    // Writing an unchanged text would make a screen reader say it again.
    function write(name, text) {
        const place = part(name);
        if (place && place.textContent !== text) place.textContent = text;
    }

    // The server's label tells how a file is called: by its step or epoch, or by the name that somebody gave it.
    function fileTitle(file) {
        const [, way, number] = /^(step|epoch) (\d+)$/.exec(file.label) ?? [];
        if (way) return way === "step" ? t("Step {0}", number) : t("Epoch {0}", number);
        return file.label === "final" ? t("Finished") : file.label;
    }

    const named = (file) => file.label !== "final" && !/^(step|epoch) \d+$/.test(file.label);

    const duration = (seconds) => window.loraExt.duration(Math.max(1, seconds));

    // Among the lowest ones the first.
    function lowest(files) {
        const measured = files.filter((file) => typeof file.loss === "number");
        return measured.length > 1 ? measured.reduce((best, file) => (file.loss < best.loss ? file : best)) : null;
    }

    // The loss on the held-out pictures, and whether no other is lower; nothing where it was not measured.
    function lossText(file, files) {
        if (typeof file.loss !== "number") return "";
        const value = file.loss.toPrecision(3);
        const least = lowest(files)?.loss === file.loss;
        return least ? t("Held-out loss {0}, the lowest", value) : t("Held-out loss {0}", value);
    }

    // The body of an answer; what was refused is thrown as `{problems}`.
    async function answered(promise) {
        let answer;
        try {
            answer = await promise;
        } catch {
            throw {problems: [{field: "", text: t("No connection to the server: nothing was changed.")}]};
        }
        const body = await answer.json().catch(() => ({}));
        if (answer.ok) return body;
        const text = answer.status === 403 ? t("The server was restarted. Reload this page.")
            : t("The server answered with an error ({0}).", answer.status);
        const told = (body.problems ?? []).map((problem) => ({...problem, text: said(problem.text)}));
        throw {problems: told.length ? told : [{field: "", text}]};
    }

    // ---- problems beside their fields -------------------------------------------------------------------------

    // Gives the text of those that have no field in `home`, and moves the focus to the first that has.
    function showProblems(home, problems) {
        clearProblems(home);
        const placed = problems.filter((problem) => place(home, problem));
        const first = placed.length && home.querySelector("[aria-invalid]");
        if (first) {
            first.closest("details")?.setAttribute("open", "");
            first.focus();
        }
        return problems.filter((problem) => !placed.includes(problem)).map((problem) => problem.text).join("\n");
    }

    function place(home, problem) {
        const [name] = String(problem.field ?? "").split(/[.[]/);
        const at = name && home.querySelector(`[data-field="${CSS.escape(name)}"]`);
        const box = at && at.querySelector("input, textarea, select");
        if (!box) return false;
        let message = at.querySelector(".lora-ext-error");
        if (!message) {
            message = make("span", "lora-ext-error");
            message.id = `lora_ext_choose_error_${name}`;
            message.setAttribute("role", "alert");
            at.append(message);
            at.addEventListener("input", () => clearProblems(at), {once: true});
        }
        message.textContent = [message.textContent, problem.text].filter(Boolean).join(" ");
        box.setAttribute("aria-invalid", "true");
        box.setAttribute("aria-describedby", message.id);
        return true;
    }

    function clearProblems(home) {
        home.querySelectorAll(".lora-ext-error").forEach((message) => message.remove());
        home.querySelectorAll("[aria-invalid]").forEach((box) => {
            box.removeAttribute("aria-invalid");
            box.removeAttribute("aria-describedby");
        });
    }

    // ---- what is saved ----------------------------------------------------------------------------------------

    async function askSaved(wanted = "") {
        try {
            const found = await answered(get("saved"));
            write("trouble", "");
            take(found, wanted);
        } catch (error) {
            if (!error.problems) throw error;
            write("trouble", error.problems.map((problem) => problem.text).join("\n"));
        }
    }

    function take(found, wanted) {
        const before = JSON.stringify(known.runs);
        known.runs = found.runs;
        part("none").hidden = known.runs.length > 0;
        part("form").hidden = !known.runs.length;
        if (before === JSON.stringify(known.runs) && !wanted) return;
        const names = known.runs.map((run) => run.name);
        const kept = known.run ? null : remembered();
        const {run, byHand} = kept ?? known;
        const chosen = [wanted, byHand && run, names[0]].find((name) => names.includes(name)) ?? "";
        const other = chosen !== known.run;
        if (other) Object.assign(known, {run: chosen, byHand, touched: false});
        const select = input("run");
        select.replaceChildren(...known.runs.map((run) => new Option(runTitle(run), run.name)));
        select.value = chosen;
        if (current()) drawFiles(other || !known.touched);
        if (current() && other) suggest();
        if (current() && kept?.run === chosen) fillIn(kept.wish);
        drawCount();
        redrawn.forEach((callback) => callback());
    }

    function runTitle(run) {
        const newest = Math.max(...run.files.map((file) => file.saved));
        return t("{0} – {1}", run.name, new Date(newest * 1000).toLocaleString([], {dateStyle: "medium", timeStyle: "short"}));
    }

    // What the last one holds is known best by itself; the others are spread over the run, one being the lowest.
    function spread(files) {
        const last = files.length - 1;
        const earlier = files.slice(0, last).filter((file) => file.step === null || file.step !== files[last].step);
        if (earlier.length < MOST) return [...earlier, files[last]];
        const picks = new Set([...Array(MOST - 1).keys()].map((n) => Math.round((n * (earlier.length - 1)) / (MOST - 2))));
        const best = earlier.indexOf(lowest(files));
        if (best > 0 && !picks.has(best)) {
            const inner = [...picks].slice(1).sort((a, b) => Math.abs(a - best) - Math.abs(b - best));
            picks.delete(inner[0]);
            picks.add(best);
        }
        return [...earlier.filter((_, n) => picks.has(n)), files[last]];
    }

    function drawFiles(anew) {
        const run = current();
        const home = part("files");
        const ticked = new Set([...home.querySelectorAll("input:checked")].map((box) => box.value));
        const wanted = anew ? new Set(spread(run.files).map((file) => file.file)) : ticked;
        const focus = home.contains(document.activeElement) ? document.activeElement.value : null;
        home.replaceChildren(...run.files.map((file) => fileRow(file, run, wanted.has(file.file))));
        if (focus) [...home.querySelectorAll("input")].find((box) => box.value === focus)?.focus();
    }

    function fileRow(file, run, ticked) {
        const row = make("li");
        const label = make("label");
        const box = make("input");
        Object.assign(box, {type: "checkbox", value: file.file, checked: ticked});
        const loss = make("span", "lora-ext-choose-loss", lossText(file, run.files));
        if (lowest(run.files)?.loss === file.loss) loss.classList.add("lora-ext-choose-lowest");
        label.append(box, make("span", "lora-ext-choose-title", fileTitle(file)), loss);
        const choose = button(t("Choose"), "", () => window.loraExtPick?.({file: file.file}));
        choose.setAttribute("aria-label", t("Choose {0}", fileTitle(file)));
        row.append(label, choose);
        return row;
    }

    // ---- what shall be compared -------------------------------------------------------------------------------

    function suggest() {
        const run = current();
        const side = SIZES[run.family] ?? 512;
        const [width, height] = run.size ?? [side, side];
        for (const [name, value] of Object.entries({...PLAIN, width, height})) input(name).value = value;
        input("prompts").value = run.prompts.length ? run.prompts.join("\n") : run.trigger;
        const own = typeof run.strength === "number" && run.strength > 0 ? [run.strength] : [];
        const all = [...new Set([...STRENGTHS, ...own])].sort((a, b) => a - b);
        part("strengths").replaceChildren(...all.map((one) => chip(one, TICKED.includes(one) || own.includes(one))), adder());
        clearProblems(part("form"));
    }

    function chip(strength, ticked) {
        const label = make("label", "lora-ext-choose-chip");
        const box = make("input");
        Object.assign(box, {type: "checkbox", value: String(strength), checked: ticked});
        label.append(box, make("span", "", number(strength)));
        return label;
    }

    // One that is not among them: written and confirmed with Enter or by leaving the box.
    function adder() {
        const box = make("input", "lora-ext-choose-add");
        Object.assign(box, {type: "number", step: "0.05", min: "-2", max: "2", placeholder: t("Another")});
        box.setAttribute("aria-label", t("Another strength"));
        box.addEventListener("change", () => {
            const boxes = [...part("strengths").querySelectorAll("[type=checkbox]")];
            const same = boxes.find((one) => Number(one.value) === box.valueAsNumber);
            if (same) same.checked = true;
            else if (Number.isFinite(box.valueAsNumber)) box.before(chip(box.valueAsNumber, true));
            box.value = "";
            drawCount();
        });
        return box;
    }

    function wish() {
        const ticked = (name) => [...part(name).querySelectorAll("input:checked")].map((box) => box.value);
        const numbers = NUMBERS.map((name) => [name, input(name).valueAsNumber]);
        return {
            files: ticked("files"), strengths: ticked("strengths").map(Number).sort((a, b) => a - b),
            prompts: input("prompts").value.split("\n").map((line) => line.trim()).filter(Boolean),
            negative: input("negative").value, ...Object.fromEntries(numbers),
        };
    }

    // What was written stays over a reload; a browser may forbid it.
    function keepForm() {
        try {
            sessionStorage.setItem(FORM, JSON.stringify({run: known.run, byHand: known.byHand, wish: wish()}));
        } catch { /* then the form begins with what fits the run */ }
    }

    function remembered() {
        try {
            return JSON.parse(sessionStorage.getItem(FORM));
        } catch {
            return null;
        }
    }

    function fillIn(w) {
        const boxes = (name) => [...part(name).querySelectorAll("[type=checkbox]")];
        const tick = (all, values) => all.forEach((box) => { box.checked = values.includes(box.value); });
        const strengths = w.strengths.map(String);
        const shown = boxes("strengths").map((box) => box.value);
        for (const one of w.strengths) if (!shown.includes(String(one))) part("strengths").lastElementChild.before(chip(one, true));
        tick(boxes("strengths"), strengths);
        if (boxes("files").some((box) => w.files.includes(box.value))) tick(boxes("files"), w.files);
        input("prompts").value = w.prompts.join("\n");
        for (const name of ["negative", ...NUMBERS]) input(name).value = w[name] ?? "";
        known.touched = true;
    }

    // Without the LoRA every file paints the same, so that is done once.
    function amount(w) {
        const each = w.files.length * w.strengths.filter(Boolean).length + (w.strengths.includes(0) ? 1 : 0);
        return w.prompts.length * (w.pictures || 0) * each;
    }

    const work = (w) => w.width * w.height * w.steps;

    function countText(w) {
        if (known.trains) return t("“{0}” is being trained. Pause it, or wait for its end, to make a sheet.", known.trains);
        if (known.making) return t("A sheet is being made. Wait for it or cancel it to make another one.");
        if (!w.files.length) return t("Tick at least one saved step.");
        if (!w.strengths.length) return t("Tick at least one strength.");
        if (!w.prompts.length) return t("Write at least one prompt.");
        const seconds = amount(w) * work(w) * pace(current()?.family);
        if (seconds > 0) return t("Pictures to make: {0}. That takes about {1}.", amount(w), duration(seconds));
        return t("Pictures to make: {0}. How long that takes is told after the first ones.", amount(w));
    }

    function drawCount() {
        if (!part("form") || part("form").hidden) return;
        const w = wish();
        write("count", countText(w));
        const ready = !known.trains && !known.making && !known.sent && w.files.length && w.strengths.length && w.prompts.length;
        part("make").disabled = !ready;
    }

    // The sheet that is made; only one is at a time.
    function heardOf(view) {
        learnPace(view);
        if (known.making === (view.state === "running")) return;
        known.making = !known.making;
        drawCount();
    }

    // Seconds per pixel and sampling step, learnt from the last sheet of this family; nothing before the first.
    function pace(family) {
        try {
            return JSON.parse(localStorage.getItem(KEEP))?.[family] ?? 0;
        } catch {
            return 0;
        }
    }

    function learnPace(view) {
        const left = view.total - view.done;
        if (!wished || view.state !== "running" || view.left === null || view.done < 1 || left < 1) return;
        try {
            const old = JSON.parse(localStorage.getItem(KEEP)) ?? {};
            localStorage.setItem(KEEP, JSON.stringify({...old, [wished.family]: view.left / left / work(wished)}));
        } catch { /* then it is not told beforehand */ }
    }

    async function makeSheet() {
        const w = wish();
        clearProblems(part("form"));
        write("trouble", "");
        known.sent = true;
        drawCount();
        try {
            const view = await answered(send("POST", "sheet", w));
            wished = {...w, family: current().family};
            window.loraExtSheet?.begun(view);
        } catch (error) {
            if (!error.problems) throw error;
            write("trouble", showProblems(part("form"), error.problems));
            if (part("trouble").textContent) part("trouble").scrollIntoView({block: "nearest"});
        } finally {
            known.sent = false;
            drawCount();
        }
    }

    // ---- what makes it go -------------------------------------------------------------------------------------

    onJob((seen) => {
        if (!part("form")) return;
        const job = seen.snapshot;
        const [ended, trains] = [known.trains && !TRAINS.includes(job.state), TRAINS.includes(job.state) ? job.name : ""];
        const saved = JSON.stringify([job.run, job.state, job.saved.length]);
        known.trains = trains;
        if (saved === known.job) return;
        known.job = saved;
        drawCount();
        if (open) askSaved(ended && job.saved.length ? job.name : "");
    });

    onTab((step) => {
        open = step === "lora_ext_step_choose";
        if (open) askSaved();
    });

    document.addEventListener("change", (event) => {
        if (!event.target.closest?.("#lora_ext_choose [data-choose=form]")) return;
        known.touched = event.target !== input("run");
        if (!known.touched) {
            Object.assign(known, {run: input("run").value, byHand: true});
            drawFiles(true);
            suggest();
        }
        drawCount();
        keepForm();
    });

    document.addEventListener("input", (event) => {
        if (!event.target.closest?.("#lora_ext_choose [data-choose=form]")) return;
        drawCount();
        keepForm();
    });

    document.addEventListener("click", (event) => {
        if (event.target.closest?.("#lora_ext_choose [data-choose=make]")) makeSheet();
    });

    window.loraExtChoose = {
        known, part, said, button, write, fileTitle, named, duration, lossText, lowest, number, answered, showProblems, askSaved,
        heardOf, onSaved: (callback) => redrawn.push(callback),
    };
})();
