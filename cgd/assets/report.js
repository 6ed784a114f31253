// The reader of a run: unpacks the examples, lists them, and shows one at a time. All model text reaches the page as text nodes only.
'use strict';
(async () => {
  const SHOWN = 20000;   // characters of one text that are drawn (with maths) before one asks for the rest
  const $ = id => document.getElementById(id);
  const make = (tag, cls, text) => { const e = document.createElement(tag); if (cls) e.className = cls; if (text !== undefined) e.textContent = text; return e; };
  const add = (parent, ...children) => { parent.append(...children.filter(c => c)); return parent; };
  const count = n => n.toLocaleString('en');

  async function unpack(element) {   // base64 of gzip of JSON
    const text = element.textContent, packed = Uint8Array.fromBase64 ? '' : atob(text);
    const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(packed, c => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).json();
  }

  // ---- tabs: each part of the page is one; the address says which
  const tabs = [...document.querySelectorAll('#tabs button')];
  function open_tab(name) {
    const chosen = tabs.some(t => t.dataset.tab === name) ? name : 'result';
    for (const t of tabs) { const on = t.dataset.tab === chosen; t.setAttribute('aria-selected', on); t.tabIndex = on ? 0 : -1; $(`tab-${t.dataset.tab}`).hidden = !on; }
    state.tab = document.body.dataset.tab = chosen;
    if (chosen === 'compare') state.redraw?.();   // a list that was hidden has no size
  }
  // ---- tables: of numbers by several graders, one grader's are shown
  function pick_grader(name) {
    for (const e of document.querySelectorAll('[data-of]')) {
      const own = e.dataset.of.split(' ');
      e.hidden = e.dataset.grader !== (own.includes(name) ? name : own[0]);
    }
  }
  const state = { tab: 'result', a: '', b: '', set: '', grader: $('grader').value, show: '', words: [], changes: null, current: -1 };
  open_tab('result');
  for (const t of tabs) t.onclick = () => { open_tab(t.dataset.tab); if (document.documentElement.dataset.ready) remember(true); };
  $('tabs').addEventListener('keydown', event => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key], at = tabs.findIndex(t => t.dataset.tab === state.tab);
    if (!move) return;
    event.stopPropagation(); event.preventDefault();
    const to = tabs[(at + move + tabs.length) % tabs.length]; to.click(); to.focus();
  });
  if ($('table-grader')) $('table-grader').onchange = event => { pick_grader(event.target.value); };
  pick_grader($('grader').value);

  if (!window.DecompressionStream) { $('loading').textContent = 'This browser is too old for the examples: it cannot unpack gzip. Tables and figures are complete.'; return; }
  const { examples, voices, graders, gaps, fixed, run, chunk, opens } = await unpack($('data'));
  const by = Object.fromEntries(voices.map(v => [v.name, v]));
  const place = new Map(examples.map((e, n) => [e.id, n]));

  // ---- the texts come in chunks, each unpacked when it is first wanted
  const packed = [...document.querySelectorAll('script.texts')], loading = packed.map(() => null);
  const load = c => loading[c] ??= unpack(packed[c]).then(texts => texts.forEach((t, i) => {
    const e = examples[c * chunk + i];
    Object.assign(e, { prompt: t.prompt, reference: t.reference, solution: t.solution });
    e.voices.forEach((v, k) => Object.assign(v, t.voices[k]));
    packed[c].textContent = '';
  }));
  const load_all = () => Promise.all(packed.map((p, c) => load(c)));

  // ---- two voices are compared: of a teaching problem, or of test problems
  const voice_of = (e, name) => e.voices.find(v => v.by === name);
  const grade = v => v.grades[state.grader] ?? Object.values(v.grades)[0];
  const right = outcome => typeof outcome === 'number' ? outcome >= 1 : outcome === 'right';
  const worth = outcome => typeof outcome === 'number' ? outcome : +right(outcome);   // part marks count in part
  const is_right = v => right(grade(v));
  const taught = name => !!by[name]?.taught;
  const of_kind = e => (e.set === 'teaching') === taught(state.b) && !!(voice_of(e, state.a) || voice_of(e, state.b));
  const label = name => by[name]?.label ?? name, short = name => by[name]?.short ?? name;

  // ---- labels: one's own judgement of the second voice, kept in this browser
  const shelf = `cgd-labels-${run}`;
  let labels = {};
  try { labels = JSON.parse(localStorage.getItem(shelf)) ?? {}; } catch (error) { $('read').textContent = 'This browser keeps no labels for files: save them before you close the page.'; }
  const key_of = e => JSON.stringify([e.id, state.b]);
  const mine = e => labels[key_of(e)]?.label;
  function put(found) {
    labels = found;
    try { localStorage.setItem(shelf, JSON.stringify(labels)); } catch (error) { /* they are in the page until it is closed */ }
  }

  // ---- which examples are shown
  const both = (first, second) => (e, a, b) => !!a && !!b && is_right(a) === first && is_right(b) === second;
  const disagree = v => !!v && new Set(Object.values(v.grades).map(right)).size > 1;
  const FILTERS = [
    ['', 'all', () => true, 'Every example of the two.'],
    ['flips', 'flips', (e, a, b) => !!a && !!b && is_right(a) !== is_right(b), 'One of the two is right and the other is not: first what turned right, then what turned wrong.'],
    ['gained', 'wrong → right', both(false, true), 'The first text is not right and the second is. Not right is wrong, without an answer, or not decided in time.'],
    ['lost', 'right → wrong', both(true, false), 'The first text is right and the second is not.'],
    ['both-right', 'both right', both(true, true), 'Both texts are right.'],
    ['both-wrong', 'neither right', both(false, false), 'Neither text is right.'],
    ['disagree', 'graders disagree', (e, a, b) => disagree(a) || disagree(b), 'One of the two texts is right for one grader and not right for another.'],
    ['cut', 'cut off', (e, a, b) => [a, b, voice_of(e, 'critique')].some(v => v?.finish === 'length'), 'One of the two texts, or the critique between them, was cut off at its token limit.'],
    ['leaked', 'states the answer', e => e.voices.some(v => v.leaks), 'The critique states the reference answer, if only because it quotes the draft.'],
    ['pass', 'mine: pass', e => mine(e) === 'pass', 'Examples whose second text you passed.'],
    ['fail', 'mine: fail', e => mine(e) === 'fail', 'Examples whose second text you failed.'],
    ['unlabelled', 'no label yet', e => !mine(e), 'Examples whose second text you have not judged.']].map(([name, label, test, meaning]) => ({ name, label, test, meaning }));
  const passes = (e, f) => f.test(e, voice_of(e, state.a), voice_of(e, state.b));
  const chosen = () => FILTERS.find(f => f.name === state.show) ?? FILTERS[0];
  const text = e => e.text ??= [e.id, e.prompt, e.reference, e.solution, e.by, ...e.voices.map(v => v.text)].join('\n').toLowerCase();
  const wanted = e => of_kind(e) && (!state.set || e.set === state.set) && state.words.every(w => text(e).includes(w));
  let found = [];   // places of the examples that are shown, in order

  // ---- maths: only what stands between delimiters (or in \boxed{}) is drawn; what cannot be read stays text
  const OPEN = /\$\$|\\\[|\\\(|\\boxed\s?\{|\\begin\{(equation|align|gather|cases|[pbvV]?matrix|array)\*?\}|\$(?=[^\s$])/g;
  const CLOSE = { '$$': '$$', '\\[': '\\]', '\\(': '\\)' };
  function closing(s, start, open) {   // where the maths that `open` begins at `start` ends; -1: nowhere near
    const from = start + open.length, near = s.slice(from, from + 2000);
    let at;
    if (open in CLOSE) { at = near.indexOf(CLOSE[open]); return at < 1 ? -1 : from + at + 2; }
    if (open.startsWith('\\begin')) { const end = open.replace('\\begin', '\\end'); at = near.indexOf(end); return at < 0 ? -1 : from + at + end.length; }
    if (open.startsWith('\\boxed')) {
      for (let depth = 1, i = 0; i < near.length; i++) if (near[i - 1] !== '\\' && (near[i] === '{' || near[i] === '}') && !(depth += near[i] === '{' ? 1 : -1)) return from + i + 1;
      return -1;
    }
    if (/[\w\\$]/.test(s[start - 1] ?? ' ')) return -1;   // $5 is money more often than maths: pandoc's rule
    for (at = near.indexOf('$'); at > 0 && near[at - 1] === '\\'; at = near.indexOf('$', at + 1));
    return at < 1 || /\s/.test(near[at - 1]) || /[\d$]/.test(near[at + 1] ?? '') || /\n\s*\n/.test(near.slice(0, at)) ? -1 : from + at + 1;
  }
  function formula(source, open) {   // an element, or null if it is no TeX
    const inner = open.startsWith('\\b') ? source : source.slice(open.length, -open.length);
    const words = inner.replace(/^(\\boxed\s?)\{([^\\{}$]*[a-z]{3,}[^\\{}$]*)\}$/i, '$1{\\text{$2}}').replace(/(\\boxed\s?\{)\$(.*)\$\}$/, '$1$2}');
    const box = make('span', 'maths');
    box.title = source.slice(0, 300);
    try { temml.render(words, box, { displayMode: open === '$$' || open === '\\[' || open.startsWith('\\begin'), throwOnError: true, trust: false, maxSize: [20, 20], maxExpand: 300 }); }
    catch (error) { return null; }   // a model's TeX is often broken: its text is shown as it is
    return box;
  }
  function hits(s) {   // where the words stand that one searches for: [from, to] each, in order
    const low = s.toLowerCase(), all = [];
    if (!state.words.length || low.length !== s.length) return all;   // a letter whose small form is longer: positions would be off
    for (let i = 0; i < s.length;) {
      const next = state.words.map(w => [low.indexOf(w, i), w.length]).filter(h => h[0] >= 0).sort((a, b) => a[0] - b[0])[0];
      if (!next) break;
      all.push([next[0], i = next[0] + next[1]]);
    }
    return all;
  }
  function marked(target, s, from, to, wanted) {   // a part of a text, with the parts of hits that lie in it marked
    for (const [start, end] of wanted.filter(h => h[1] > from && h[0] < to)) {
      const until = Math.min(end, to);
      target.append(s.slice(from, Math.max(start, from)), make('mark', '', s.slice(Math.max(start, from), until)));
      from = until;
    }
    target.append(s.slice(from, to));
  }
  function write(target, s, from = 0, to = s.length, wanted = hits(s)) {   // a part of a text, and its maths
    const part = s.slice(from, to);
    let done = 0, m;
    OPEN.lastIndex = 0;
    while ((m = OPEN.exec(part))) {
      const end = closing(part, m.index, m[0]), drawn = end > 0 ? formula(part.slice(m.index, end), m[0].slice(0, 6)) : null;
      if (!drawn) continue;
      marked(target, s, from + done, from + m.index, wanted); target.append(drawn);
      done = OPEN.lastIndex = end;
    }
    marked(target, s, from + done, to, wanted);
    return target;
  }
  function pieces(s, spans) {   // what lies between the ends of spans: [from, to, the spans that hold it]
    const cuts = [...new Set([0, s.length, ...spans.flatMap(([from, to]) => [from, to])])].filter(c => c <= s.length).sort((x, y) => x - y);
    return cuts.slice(1).map((end, i) => [cuts[i], end, spans.filter(([from, to]) => from <= cuts[i] && end <= to)]);
  }
  function prose(s, cls = 'prose', spans = []) {   // a span is [from, to, name of a quotation]
    const box = make('div', cls);
    if (!s) return add(box, make('em', 'none', 'nothing was written'));
    const shown = s.slice(0, SHOWN), wanted = hits(shown);   // a hit may reach from one span into the next
    for (const [from, to, own] of pieces(shown, spans)) {
      if (!own.length) { write(box, shown, from, to, wanted); continue; }
      const part = write(make('span', 'quote'), shown, from, to, wanted);
      part.dataset.quotes = [...new Set(own.map(o => o[2]))].join(' ');
      box.append(part);
    }
    if (s.length <= SHOWN) return box;
    const more = make('button', 'more', `… show all ${count(s.length)} characters`);
    more.type = 'button';
    more.onclick = () => { box.replaceChildren(s); box.classList.add('long'); box.tabIndex = 0; };
    return add(box, more);
  }

  // ---- the words that one text has and the other has not: a longest common subsequence
  function differences(before, after) {   // [what, text] each, what is -1, 0 or 1; null if they are too long
    const cut = s => s.match(/\s*\S+/g) ?? [], x = cut(before), y = cut(after), same = (i, j) => x[i].trim() === y[j].trim();
    if (x.length * y.length > 6e6) return null;
    const wide = y.length + 1, best = new Uint16Array((x.length + 1) * wide), made = [];
    for (let i = x.length - 1; i >= 0; i--) for (let j = y.length - 1; j >= 0; j--)
      best[i * wide + j] = same(i, j) ? best[(i + 1) * wide + j + 1] + 1 : Math.max(best[(i + 1) * wide + j], best[i * wide + j + 1]);
    const push = (what, word) => { if (made.at(-1)?.[0] === what) made.at(-1)[1] += word; else made.push([what, word]); };
    let i = 0, j = 0;
    while (i < x.length || j < y.length) {
      if (i < x.length && j < y.length && same(i, j)) { push(0, y[j]); i++; j++; }
      else if (j >= y.length || (i < x.length && best[(i + 1) * wide + j] >= best[i * wide + j + 1])) push(-1, x[i++]);
      else push(1, y[j++]);
    }
    return made;
  }
  function changed(before, after) {
    const box = make('div', 'prose'), made = differences(before, after);
    if (!made) return add(prose(after), make('p', 'quiet', 'The two are too long to be compared word by word.'));
    if (made.every(([what]) => !what)) box.append(make('em', 'none', 'No word is changed. '));
    for (const [what, words] of made) box.append(what ? make(what < 0 ? 'del' : 'ins', '', words) : words);
    return box;
  }

  // ---- one example
  const WORDS = { right: 'right', wrong: 'wrong', no_answer: 'no answer', timeout: 'not decided in time' };
  const badge = (label, kind = '', title = '') => { const b = make('span', `badge ${kind}`, ({ good: '✓ ', bad: '✗ ' }[kind] ?? '') + label); b.title = title; return b; };
  function grades(v) {
    const list = make('span', 'badges');
    for (const [g, outcome] of Object.entries(v.grades)) {
      const answer = v.found[g];
      list.append(badge((graders[g] ?? g) + (graders[g] === '' ? '' : ': ') + (WORDS[outcome] ?? outcome) + (answer ? ` (${answer.slice(0, 40)})` : ''), right(outcome) ? 'good' : 'bad', answer ? `answer found: ${answer.slice(0, 500)}` : ''));
    }
    return list;
  }
  function card_of(v, before = null, spans = []) {   // with `before`, its words are compared with that text's
    const m = by[v.by] ?? { label: v.by, color: 'currentColor' }, card = make('section', 'voice');
    card.dataset.by = v.by;
    card.style.setProperty('--hue', m.color);
    const head = add(make('header'), make('h4', '', m.label), grades(v));
    if (v.verdict) head.append(badge(`verdict: ${v.verdict}`));
    if (v.leaks) head.append(badge('states the answer', 'warn'));
    if (v.finish === 'length') head.append(badge('cut off at the token limit', 'warn'));
    else if (v.finish && !['stop', 'scored'].includes(v.finish)) head.append(badge(`ended by ${v.finish}`, 'warn'));
    if (v.tokens) head.append(make('span', 'quiet', `${count(v.tokens)} tokens`));
    if (before) head.append(make('span', 'quiet', `words changed from ${label(before.by)}`));
    return add(card, head, before ? changed(before.text, v.text) : prose(v.text, 'prose', spans));
  }
  const light = (box, names) => { for (const q of box.querySelectorAll('.quote')) q.classList.toggle('lit', q.dataset.quotes.split(' ').some(n => names.includes(n))); };
  function link_quotes(box) {   // pointing at a quotation lights what it quotes, and the other way round; a click keeps it
    let kept = [];
    const names = q => q.dataset.quotes.split(' ');
    for (const q of box.querySelectorAll('.quote')) {
      q.tabIndex = 0;
      q.onmouseenter = q.onfocus = () => light(box, names(q));
      q.onmouseleave = q.onblur = () => light(box, kept);
      q.onclick = () => {
        kept = kept.join() === names(q).join() ? [] : names(q); light(box, kept);
        const there = q.closest('.voice').dataset.by === 'critique' ? 'draft' : 'critique';
        if (kept.length) box.querySelector(`[data-by=${there}] .lit`)?.scrollIntoView({ block: 'nearest' });
      };
      q.onkeydown = event => { if (event.key === 'Enter') q.click(); };
    }
    return box;
  }
  const changes_on = () => state.changes ?? taught(state.b);
  function cards_of(e, a, b) {   // the two that are compared stand first; what was written between them, between them
    const compared = changes_on() && a && b && a !== b, critique = voice_of(e, 'critique');
    if (e.set !== 'teaching') {
      const first = add(make('div', 'voices two'), a && card_of(a), b && b !== a && card_of(b, compared ? a : null));
      const rest = e.voices.filter(v => v !== a && v !== b);
      if (!rest.length) return [first];
      return [first, add(make('details'), make('summary', '', `${rest.length} more answer${rest.length > 1 ? 's' : ''}: ${rest.map(v => label(v.by)).join('; ')}`), add(make('div', 'voices'), ...rest.map(v => card_of(v))))];
    }
    const quotes = critique?.quotes ?? [];
    const spans = { critique: quotes.map(([from, to], i) => [from, to, `q${i}`]), draft: quotes.flatMap(([, , steps], i) => steps.map(([from, to]) => [from, to, `q${i}`])) };
    return [link_quotes(add(make('div', 'voices steps'), ...e.voices.map(v => card_of(v, compared && v === b ? a : null, spans[v.by])))),
      quotes.length ? make('p', 'quiet', 'Underlined: a sentence of the critique and the sentences of the draft that it repeats. Point at one to see the other.') : null];
  }
  function reference(s) {   // often bare TeX
    const bare = /\\[a-z]/i.test(s) && !s.includes('$') && s.length <= 300 ? formula(`$${s}$`, '$') : null;
    return bare ?? write(make('span'), s.length > 300 ? s.slice(0, 300) + ' …' : s);
  }
  let twins;   // the examples of each problem
  function others(e) {
    twins ??= examples.reduce((m, x, n) => m.set(x.group, [...(m.get(x.group) ?? []), n]), new Map());
    const more = twins.get(e.group).map(n => examples[n]).filter(x => x !== e).slice(0, 12);
    if (!more.length) return null;
    const line = make('p', 'quiet', 'The same problem: ');
    more.forEach((x, i) => {
      const a = make('a', '', `${x.set}${x.sample ? `, sample ${x.sample}` : ''}${x.by ? `, ${x.by}` : ''}`);
      a.href = address({ ...state, tab: 'compare', show: '', words: [], set: '', ...(x.set === 'teaching' ? pair_for('refinement') : taught(state.b) ? pair_for('') : {}), current: place.get(x.id) });
      line.append(i ? ' · ' : '', a);
    });
    return line;
  }
  function told(e) {   // the problem and what is known of it
    const solution = e.solution ? add(make('details'), make('summary', '', 'worked solution'), prose(e.solution)) : null;
    return [add(make('h3'), 'Problem'), prose(e.prompt, 'prose problem'),
      add(make('p', 'answer'), make('span', 'quiet', 'reference answer '), e.reference === null ? make('em', 'quiet', 'none') : reference(e.reference)),
      solution, e.by ? make('p', 'quiet', `teacher: ${e.by}`) : null];
  }
  async function show(n, picked = true) {
    const e = examples[n], pane = $('example');
    state.current = n;
    await load(Math.floor(n / chunk));
    if (state.current !== n) return;   // one has gone on meanwhile
    const link = make('a', 'id', e.id);
    link.href = address(state); link.title = 'link to this view';
    const met = FILTERS.filter(f => f.name && !['flips', 'pass', 'fail', 'unlabelled'].includes(f.name) && passes(e, f)).map(f => badge(f.label, '', f.meaning));
    pane.replaceChildren(...[add(make('p', 'where quiet'), `${e.set}${e.sample ? `, sample ${e.sample}` : ''} · `, link), ...told(e), others(e), add(make('p', 'badges'), ...met), ...cards_of(e, voice_of(e, state.a), voice_of(e, state.b))].filter(x => x));
    pane.scrollTop = 0;
    if (picked) remember();
    for (const row of document.querySelectorAll('#list .tabulator-row')) row.classList.toggle('current', row.dataset.n === String(n));
    place_of(); show_label();
    if (picked) $('said').textContent = `Example ${e.id}`;
  }
  async function show_fixed() {   // the same problems for every run of a study
    const box = $('fixed-examples');
    for (const id of fixed) {
      const e = examples[place.get(id)];
      await load(Math.floor(place.get(id) / chunk));
      const kept = [state.a, state.b];
      Object.assign(state, e.set === 'teaching' ? pair_for('refinement') : pair_for(''));
      box.append(add(make('article', 'whole'), make('p', 'where quiet', e.set === 'teaching' ? 'how it was taught' : `a problem of ${e.set}, and the answers to it`), ...told(e), ...cards_of(e, voice_of(e, state.a), voice_of(e, state.b))));
      [state.a, state.b] = kept;
    }
    $('fixed').hidden = !fixed.length;
  }

  // ---- the address: all that is chosen
  function address(s) {
    const words = { tab: s.tab, a: s.a, b: s.b, set: s.set, grader: s.grader, show: s.show, q: s.words.map(w => /\s/.test(w) ? `"${w}"` : w).join(' '), changes: s.changes === null ? '' : s.changes ? 'on' : 'off', id: s.current < 0 ? '' : examples[s.current].id };
    const said = Object.entries(words).filter(([, v]) => v);
    return '#' + new URLSearchParams(s.tab === 'compare' ? said : said.slice(0, 1));
  }
  function remember(entry = false) { if (location.hash !== address(state)) history[entry ? 'pushState' : 'replaceState'](null, '', address(state)); }
  const pair_for = b => taught(b) ? { a: 'draft', b } : opens.length ? { a: opens[0], b: opens[1] } : { a: base, b: voices.find(v => !v.taught && v.name !== base)?.name ?? base };
  function choose(a, b, changed) {   // two of one kind; what was changed last decides which
    if (taught(a) !== taught(b)) {
      const other = (changed === 'a' ? a : b);
      const of = voices.filter(v => !!v.taught === taught(other) && v.name !== 'critique' && v.name !== other).map(v => v.name);
      if (changed === 'a') b = of.at(-1) ?? a; else a = (taught(b) ? of.find(n => n === 'draft') : of.find(n => n === base)) ?? of[0] ?? b;
    }
    Object.assign(state, { a, b });
    $('a').value = a; $('b').value = b;
    const sets = [...new Set(examples.filter(of_kind).map(e => e.set))];
    if (!sets.includes(state.set)) state.set = '';
    $('set').replaceChildren(...(sets.length > 1 ? [new Option('all of them', '')] : []), ...sets.map(s => new Option(s, s)));
    $('set').value = sets.length > 1 ? state.set : sets[0] ?? '';
    $('grader').closest('label').hidden = taught(b);
  }

  // ---- the list
  const order = () => table.getSorters().length ? table.getRows('active').map(r => r.getData().n) : found;   // unsorted, they stand as they were found
  function place_of() {
    const shown = order(), at = shown.indexOf(state.current);
    $('position').textContent = shown.length ? `${at < 0 ? '–' : count(at + 1)} of ${count(shown.length)}` : 'none';
    $('previous').disabled = at === 0 || !shown.length; $('next').disabled = at === shown.length - 1;
  }
  function step(by) {
    const shown = order(), at = shown.indexOf(state.current), to = at < 0 ? 0 : at + by;
    if (to < 0 || to >= shown.length) return;
    show(shown[to]);
    table.scrollToRow(shown[to], 'nearest', false).catch(() => {});   // the row may have been filtered out meanwhile
  }
  function dot(v) {
    if (!v || grade(v) === undefined) return make('span', 'dot none', '–');
    const m = by[v.by] ?? { label: v.by, color: 'currentColor' }, d = make('span', is_right(v) ? 'dot full' : 'dot', is_right(v) ? '✓' : '✗');
    d.style.setProperty('--hue', m.color); d.title = `${m.label}: ${WORDS[grade(v)] ?? grade(v)}`;
    return d;
  }
  function marks(cell) {
    const e = examples[cell.getValue()], a = voice_of(e, state.a), b = voice_of(e, state.b), own = mine(e);
    return add(make('span', 'marks'), dot(a), ' → ', dot(b), own ? make('span', `own ${own}`, own) : null);
  }
  const sides = n => { const e = examples[n], a = voice_of(e, state.a), b = voice_of(e, state.b); return (b && is_right(b) ? 2 : 0) - (a && is_right(a) ? 1 : 0); };
  const plain = cell => document.createTextNode(cell.getValue());
  const row_of = n => ({ n, problem: examples[n].problem, set: examples[n].set + (examples[n].sample ? ` #${examples[n].sample}` : ''), marks: n });
  const table = new Tabulator('#list', {
    data: [], index: 'n', height: '100%', layout: 'fitColumns', placeholder: 'No example fits.', headerSortClickElement: 'header', columnDefaults: { headerHozAlign: 'left', resizable: false },
    columns: [{ title: 'Problem', field: 'problem', formatter: plain, widthGrow: 3, minWidth: 120 }, { title: 'Set', field: 'set', formatter: plain, width: 92 },
      { title: 'Grades', field: 'marks', formatter: marks, width: 128, sorter: (x, y) => sides(x) - sides(y) }],
    rowFormatter: row => { const e = row.getElement(), { n } = row.getData(); e.dataset.n = n; e.classList.toggle('current', n === state.current); },
  });
  table.on('dataSorted', () => { setTimeout(place_of); });
  table.on('rowClick', (event, row) => show(row.getData().n));

  // ---- the comparison in numbers: made where the run was, turned round here if need be
  const percent = x => (100 * x).toFixed(1), points = x => (x > 0 ? '+' : x < 0 ? '−' : '') + Math.abs(100 * x).toFixed(1);
  function gap_of(set) {
    const own = gaps.filter(g => g.benchmark === set && (g.a === state.a && g.b === state.b || g.a === state.b && g.b === state.a));
    const g = own.find(g => g.grader === state.grader) ?? own[0];
    if (!g) return null;
    return g.a === state.b ? g : { ...g, difference: -g.difference, low: -g.high, high: -g.low };   // second less first
  }
  const p_words = p => p === null || p === undefined ? '–' : p < .001 ? '< 0.001' : p.toFixed(3);
  function compare(rows) {
    if (state.a === state.b) { $('gaps').replaceChildren(); return; }   // one voice alone
    const sets = [...new Set(examples.filter(of_kind).map(e => e.set))].filter(s => !state.set || s === state.set);
    const box = make('table', 'data'), head = ['on', `${short(state.a)}: right, %`, `${short(state.b)}: right, %`, 'difference, points', 'McNemar p', 'wrong → right', 'right → wrong', 'both right', 'neither'];
    add(box, add(make('thead'), add(make('tr'), ...head.map((h, i) => make('th', i ? 'number' : '', h)))), make('tbody'));
    for (const s of sets) {
      const own = rows.filter(e => e.set === s).map(e => [voice_of(e, state.a), voice_of(e, state.b)]).filter(([a, b]) => a && b);
      const g = gap_of(s), n = own.length, share = i => n ? percent(own.reduce((sum, p) => sum + worth(grade(p[i])), 0) / n) : '–', line = make('tr');
      const cells = [`${s} (${count(n)})`, share(0), share(1), g ? `${points(g.difference)} [${points(g.low)}, ${points(g.high)}]` : '–', g ? p_words(g.p) : '–'];
      cells.forEach((c, i) => { const td = make('td', i ? 'number' : '', c); td.dataset.label = head[i]; line.append(td); });
      ['gained', 'lost', 'both-right', 'both-wrong'].forEach((name, i) => {
        const f = FILTERS.find(f => f.name === name), b = make('button', 'flip', count(own.filter(([a, b]) => f.test(null, a, b)).length)), td = make('td', 'number');
        b.type = 'button'; b.title = `read them: ${f.label} on ${s}`; b.dataset.flip = name;
        b.onclick = () => { Object.assign(state, { set: s, show: name }); choose(state.a, state.b); refresh(); };
        td.dataset.label = head[5 + i]; line.append(add(td, b));
      });
      box.tBodies[0].append(line);
    }
    const whole = sets.some(s => gap_of(s)), said = `From ${short(state.a)} to ${short(state.b)}${whole ? ', problem by problem; the difference has its 95% interval' : ''}. Click a count to read those problems.`;
    $('gaps').replaceChildren(box, make('p', 'quiet', said));
  }

  // ---- what is shown
  function draw_filters(rows) {
    const own = ['pass', 'fail', 'unlabelled'], labelled = Object.keys(labels).length || own.includes(state.show);
    $('filters').replaceChildren(...FILTERS.filter(f => labelled || !own.includes(f.name)).map(f => {
      const n = rows.filter(e => passes(e, f)).length, b = make('button', '', `${f.label} `);
      b.type = 'button'; b.dataset.filter = f.name; b.title = f.meaning; b.setAttribute('aria-pressed', f === chosen());
      b.onclick = () => { state.show = f.name; refresh(); };
      if (!n && f.name && f !== chosen()) b.classList.add('empty');
      return add(b, make('b', '', count(n)));
    }));
  }
  function refresh() {
    const rows = examples.filter(wanted);
    draw_filters(rows);
    $('meaning').textContent = chosen().meaning;
    found = rows.filter(e => passes(e, chosen())).map(e => place.get(e.id));
    if (chosen().name === 'flips') found = [...found.filter(n => sides(n) > 0), ...found.filter(n => sides(n) <= 0)];
    compare(examples.filter(of_kind));
    $('changes').setAttribute('aria-pressed', changes_on());
    const listed = table.replaceData(found.map(row_of)).then(place_of), picked = state.tab === 'compare';
    if (found.length) return Promise.all([listed, show(found.includes(state.current) ? state.current : found[0], picked)]);
    state.current = -1;
    $('example').replaceChildren(make('p', 'quiet', state.words.length ? 'No example fits. Take out a word, or choose another filter.' : 'No example of this kind. Choose another filter.'));
    if (picked) remember();
    place_of(); show_label();
    return listed;
  }
  for (const name of ['a', 'b']) $(name).onchange = event => { choose($('a').value, $('b').value, name); refresh(); };
  $('swap').onclick = () => { choose(state.b, state.a, 'b'); refresh(); };
  for (const name of ['set', 'grader']) $(name).onchange = event => { state[name] = event.target.value; refresh(); };
  $('changes').onclick = () => { state.changes = !changes_on(); $('changes').setAttribute('aria-pressed', state.changes); if (state.current >= 0) show(state.current); };
  const words_of = s => (s.toLowerCase().match(/"[^"]+"|\S+/g) ?? []).map(w => w.replace(/^"|"$/g, '')).filter(w => w);
  let waiting;
  $('search').oninput = () => {   // read at the end of a word
    clearTimeout(waiting); $('example').ariaBusy = true;
    const mine = waiting = setTimeout(async () => { await load_all(); state.words = words_of($('search').value); await refresh(); if (waiting === mine) $('example').ariaBusy = false; }, 150);
  };
  $('previous').onclick = () => step(-1); $('next').onclick = () => step(1);

  // ---- labels
  function show_label() {
    const own = state.current < 0 ? undefined : mine(examples[state.current]), n = Object.keys(labels).length;
    for (const name of ['pass', 'fail']) { $(name).setAttribute('aria-pressed', own === name); $(name).disabled = state.current < 0; }
    $('save').disabled = !n;
    $('kept').textContent = n ? `${count(n)} label${n > 1 ? 's' : ''} in this browser.` : 'No labels yet.';
  }
  function give(name) {   // the same again takes it back
    if (state.current < 0) return;
    const e = examples[state.current], { [key_of(e)]: old, ...rest } = labels;
    put(old?.label === name ? rest : { ...rest, [key_of(e)]: { id: e.id, set: e.set, sample: e.sample, voice: state.b, label: name, grades: voice_of(e, state.b)?.grades ?? {}, at: new Date().toISOString() } });
    $('said').textContent = mine(e) ? `labelled ${name}` : 'label taken back';
    table.getRow(state.current)?.reformat?.();
    draw_filters(examples.filter(wanted));
    show_label();
  }
  $('pass').onclick = () => give('pass'); $('fail').onclick = () => give('fail');
  $('save').onclick = () => {
    const link = make('a'), lines = Object.values(labels).map(l => JSON.stringify(l) + '\n');
    link.href = URL.createObjectURL(new Blob(lines, { type: 'application/jsonl' })); link.download = `labels-${run}.jsonl`; link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  $('load').onchange = async event => {
    const [file] = event.target.files, known = { ...labels };
    try {
      const rows = (await file.text()).split('\n').filter(l => l.trim()).map(l => JSON.parse(l)), own = rows.filter(r => place.has(r.id) && ['pass', 'fail'].includes(r.label));
      for (const r of own) known[JSON.stringify([r.id, r.voice])] = r;
      put(known); refresh(); show_label();
      $('read').textContent = `${count(own.length)} of ${count(rows.length)} lines of ${file.name} are of this page.`;
    } catch (error) { $('read').textContent = `${file.name} is no file of labels: one JSON object a line, as saved here.`; }
    event.target.value = '';
  };

  document.addEventListener('keydown', event => {
    if (state.tab !== 'compare' || event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, select, textarea')) return;
    const inList = event.target.closest('#list'), move = { ArrowRight: 1, ArrowLeft: -1, j: 1, k: -1, ...(inList ? { ArrowDown: 1, ArrowUp: -1 } : {}) }[event.key];
    const act = { '/': () => $('search').focus(), 1: () => give('pass'), p: () => give('pass'), 2: () => give('fail'), f: () => give('fail'), d: () => $('changes').click() }[event.key] ?? (move && !event.target.closest('.long') ? () => step(move) : null);
    if (act) { event.preventDefault(); act(); }
  });
  async function follow() {   // what the address names
    const hash = location.hash.slice(1), part = hash.includes('=') ? null : document.getElementById(hash);
    if (part) { open_tab((part.closest('[role=tabpanel]')?.id ?? 'tab-result').slice(4)); part.scrollIntoView(); return; }
    const asked = new URLSearchParams(hash), get = (name, known, or) => known(asked.get(name)) ? asked.get(name) : or;
    open_tab(asked.get('tab') ?? 'result');
    if (state.tab !== 'compare') return;
    Object.assign(state, { set: asked.get('set') ?? '', grader: get('grader', g => g in graders && g, state.grader), show: asked.get('show') ?? '', changes: { on: true, off: false }[asked.get('changes')] ?? null, words: words_of(asked.get('q') ?? ''), current: place.get(asked.get('id')) ?? -1 });
    if (state.words.length) await load_all();
    $('search').value = asked.get('q') ?? ''; $('grader').value = state.grader;
    choose(get('a', n => n in by, state.a), get('b', n => n in by, state.b), 'b');
    const e = examples[state.current];
    if (e && !(wanted(e) && passes(e, chosen()))) {   // the filters give way to what is asked for by name
      Object.assign(state, { set: '', show: '', words: [] }); $('search').value = '';
      if (!of_kind(e)) Object.assign(state, pair_for(e.set === 'teaching' ? 'refinement' : ''));
      choose(state.a, state.b);
    }
    await refresh();
    if (state.current >= 0) table.scrollToRow(state.current, 'center', false).catch(() => {});
  }
  const base = voices.find(v => !v.taught)?.name ?? voices.find(v => v.taught)?.name ?? '';
  table.on('tableBuilt', async () => {
    $('loading').remove(); $('browser').hidden = false; state.redraw = () => table.redraw(true);
    const first = voices.some(v => !v.taught) ? pair_for('') : pair_for('refinement' in by ? 'refinement' : base);
    choose(first.a, first.b, 'b');
    await follow();
    if (state.tab !== 'compare') refresh();
    performance.mark('usable'); document.documentElement.dataset.ready = 'yes';
    await show_fixed();
    document.documentElement.dataset.whole = 'yes';
  });
  window.addEventListener('hashchange', follow);
})();
