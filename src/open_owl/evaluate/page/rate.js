'use strict';
// The page where answers are rated. Which model said what never reaches it.

const PAUSE_MS = 450;         // a rating is seen before the next question comes
const TRY_AGAIN_MS = 2000;
const UNSAVED = 'owl-rate-unsaved', NAME = 'owl-rate-name';
const CHOICES = [['left', '1', 'The first is better'], ['tie', '0', 'Both the same'], ['right', '2', 'The second is better']];

const at = id => document.getElementById(id);
const state = {progress: null, number: 0, screen: null, current: 0, leaving: 0, loading: 0, store: null};

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

async function ask(path, body) {
  const options = body && {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)};
  const response = await fetch(path, options || {});
  if (response.status === 401) location.reload();
  if (response.ok) return response.json();
  const told = await response.json().catch(() => ({}));
  const error = new Error(typeof told.detail === 'string' ? told.detail : `the server answers ${response.status}`);
  // All else is asked again later: the server is down or busy or wants its token first, or what answers is a
  // proxy, or a server over another store.
  error.isFinal = response.status === 422 && told.detail !== undefined;
  error.status = response.status;
  throw error;
}

const who = () => `rater=${encodeURIComponent(state.progress.rater)}`;

// Saving: what is not with the server yet outlives a lost connection and a closed page.

// Each has a key of its own, so that two pages in one browser do not write over each other's.
const unsaved = Object.keys(localStorage).filter(key => key.startsWith(UNSAVED)).sort()
  .map(key => ({key, ...JSON.parse(localStorage.getItem(key))}));
let isSaving = false, saves = 0;

function save(path, body) {
  const order = [Date.now(), saves++].map(number => String(number).padStart(15, '0'));
  const key = [UNSAVED, ...order, Math.random().toString(36).slice(2)].join('-');
  const entry = {store: state.store, path, body};
  localStorage.setItem(key, JSON.stringify(entry));
  unsaved.push({key, ...entry});
  if (!isSaving) tell('Saving');
  send();
}

/** Whether it is for this page to send: not another store's, and not refused since the page was loaded. */
const isToSend = entry => !entry.refused && (entry.store === undefined || entry.store === state.store);

async function send() {
  if (isSaving || !state.store) return;
  isSaving = true;
  for (let entry; (entry = unsaved.find(isToSend));) {
    try {
      if (localStorage.getItem(entry.key)) await ask(entry.path, entry.body);  // else another page has sent it
    } catch (error) {
      if (error.isFinal) entry.refused = error.message;  // it stays in the browser, and on the screen
      else if (error.status === 404 && entry.store === undefined) entry.store = '';  // of some other store
      else {
        tell(`Not saved yet: ${error.status ? error.message : 'no connection'}. Trying again.`, true);
        setTimeout(() => { isSaving = false; send(); }, TRY_AGAIN_MS);
        return;
      }
      continue;
    }
    for (const done of unsaved.filter(other => other === entry || (other.refused && isSame(other, entry)))) {
      unsaved.splice(unsaved.indexOf(done), 1);
      localStorage.removeItem(done.key);
    }
    tell('Saved');
  }
  const refused = unsaved.find(entry => entry.refused);
  if (refused) tell(`Not saved, but kept in this browser: ${refused.refused}`, true);
  isSaving = false;
}

/** Whether two say something of the same answer, or pair of them, for the same rater. */
function isSame(one, other) {
  const about = ({path, body}) => [path, body.rater, body.answer, body.left, body.right].join();
  return about(one) === about(other);
}

function tell(text, isTrouble = false) {
  at('status').textContent = text;
  at('status').classList.toggle('trouble', isTrouble);
  at('status').setAttribute('role', isTrouble ? 'alert' : 'note');  // what goes well need not be read out
}

// Beginning

async function begin(name) {
  await send();
  state.progress = await ask(`/api/progress?rater=${encodeURIComponent(name)}`);
  localStorage.setItem(NAME, state.progress.rater);
  document.body.classList.toggle('pairs', isPairs());
  at('start').hidden = true;
  at('rating').hidden = false;
  at('who').textContent = state.progress.rater;
  showLegend();
  if (state.progress.done) tell(`Welcome back: ${state.progress.done} are rated already.`);
  await show(state.progress.todo.length ? state.progress.todo[0] : 0);
}

const isPairs = () => state.progress.mode === 'pairs';

function showLegend() {
  at('legend').replaceChildren();
  for (const level of isPairs() ? [] : state.progress.levels) {
    const term = make('dt');
    term.append(make('kbd', '', level.key), ` ${level.name}`);
    at('legend').append(term, make('dd', '', level.meaning));
  }
  const keys = isPairs() ? [['1', 'first'], ['2', 'second'], ['0', 'both the same']]
    : [['A', ''], ['B', ''], ['C', ''], ['D', 'rate the marked answer'], ['↑', ''], ['↓', 'mark another']];
  keys.push(['←', ''], ['→', 'other questions'], ['⌫', 'take back'], ['E', 'earlier turns']);
  at('keys').replaceChildren('Click, or press a key: ');
  for (const [key, meaning] of keys) at('keys').append(make('kbd', '', key), meaning ? ` ${meaning}  ` : ' ');
}

// A screen

async function show(number) {
  clearTimeout(state.leaving);
  state.leaving = 0;
  const turn = state.loading = number + 1;  // until it is here nothing is rated; a later call takes over
  let screen;
  try {
    screen = await ask(`/api/screens/${number}?${who()}`);
  } catch (error) {
    if (state.loading === turn) state.loading = 0;
    tell(`The question cannot be loaded: ${error.message}`, true);
    return;
  }
  if (state.loading !== turn) return;
  state.loading = 0;
  for (const {path, body} of unsaved) keep(screen, path, body);
  state.number = number;
  state.screen = screen;
  state.current = Math.max(0, screen.answers.findIndex(answer => !answer.level));
  at('picture').src = at('picture-link').href = screen.picture;
  at('earlier').replaceChildren(...screen.earlier.map((text, index) => make('li', '', `${index + 1}. ${text}`)));
  at('question').textContent = screen.question;
  at('answers').replaceChildren(...screen.answers.map(card));
  at('choices').replaceChildren(...(isPairs() ? CHOICES.map(choiceButton) : []));
  at('place').textContent = `Question ${number + 1} of ${state.progress.screens}`;
  at('previous').disabled = number === 0;
  at('next').disabled = number === state.progress.screens - 1;
  window.scrollTo(0, 0);
  refresh();
  at('question').focus({preventScroll: true});
}

/** What was rated but is not saved yet, put into a screen that the server does not know it of. */
function keep(screen, path, body) {
  if (body.rater !== state.progress.rater) return;
  if (path === '/api/ratings') {
    for (const answer of screen.answers) if (answer.id === body.answer) answer.level = body.level;
  } else if (screen.answers[0].id === body.left && screen.answers[1].id === body.right) screen.choice = body.choice;
}

function card(answer, index) {
  const element = make('section', 'card');
  const title = isPairs() ? ['First answer', 'Second answer'][index]
    : `Answer ${index + 1} of ${state.screen.answers.length}`;
  element.tabIndex = -1;
  element.setAttribute('aria-label', title);
  element.append(make('h3', '', title));
  if (answer.earlier.length) {
    const earlier = make('details');
    earlier.append(make('summary', '', 'What it said before'));
    for (const turn of answer.earlier) earlier.append(make('p', '', `${turn.question}\n→ ${turn.answer}`));
    element.append(earlier);
  }
  element.append(make('p', 'text', answer.text));
  if (!isPairs()) {
    const levels = make('div', 'levels');
    levels.setAttribute('role', 'group');
    levels.setAttribute('aria-label', `Level of answer ${index + 1}`);
    levels.append(...state.progress.levels.map(level => levelButton(level, index)));
    element.append(levels);
    element.addEventListener('click', () => mark(index, false));
  }
  return element;
}

function levelButton(level, index) {
  const button = make('button');
  button.dataset.level = level.key;
  button.title = level.meaning;
  button.append(make('b', '', level.key), make('span', '', level.name));
  button.addEventListener('click', event => { event.stopPropagation(); mark(index, false); rate(level.key); });
  return button;
}

function choiceButton([choice, key, text]) {
  const button = make('button');
  button.dataset.choice = choice;
  button.append(make('kbd', '', key), text);
  button.addEventListener('click', () => choose(choice));
  return button;
}

function refresh() {
  const {screen, progress} = state;
  document.querySelectorAll('.card').forEach((element, index) => {
    element.classList.toggle('current', !isPairs() && index === state.current);
    for (const button of element.querySelectorAll('[data-level]'))
      button.setAttribute('aria-pressed', button.dataset.level === screen.answers[index].level);
  });
  for (const button of document.querySelectorAll('[data-choice]'))
    button.setAttribute('aria-pressed', button.dataset.choice === screen.choice);
  at('progress').max = Math.max(1, progress.total);
  at('progress').value = progress.done;
  at('progress-text').textContent = `${progress.done} of ${progress.total} rated`;
  at('thanks').hidden = progress.done < progress.total;
}

function mark(index, isMoving = true) {
  state.current = index;
  refresh();
  if (!isMoving) return;
  const element = document.querySelectorAll('.card')[index];
  element.focus({preventScroll: true});
  element.scrollIntoView({block: 'nearest'});
}

// Rating

function rate(level) {
  if (state.loading) return;
  const answer = state.screen.answers[state.current];
  count(answer.level, level);
  answer.level = level;
  save('/api/ratings', {rater: state.progress.rater, answer: answer.id, level});
  refresh();
  const left = state.screen.answers.findIndex(other => !other.level);
  if (level && left >= 0) {
    const later = state.screen.answers.findIndex((other, index) => index > state.current && !other.level);
    mark(later >= 0 ? later : left);
  }
  leaveIfDone(left < 0);
}

function choose(choice) {
  if (state.loading) return;
  const [left, right] = state.screen.answers;
  count(state.screen.choice, choice);
  state.screen.choice = choice;
  save('/api/preferences', {rater: state.progress.rater, left: left.id, right: right.id, choice});
  refresh();
  leaveIfDone(choice !== null);
}

function count(before, after) {
  state.progress.done += (after ? 1 : 0) - (before ? 1 : 0);
}

/** On to the next question that has something left, once this one has nothing. */
function leaveIfDone(isDone) {
  clearTimeout(state.leaving);
  state.leaving = 0;
  const {todo} = state.progress, number = state.number;
  if (!isDone) {
    if (!todo.includes(number)) todo.push(number);
    todo.sort((one, other) => one - other);
    return;
  }
  state.progress.todo = todo.filter(other => other !== number);
  const next = state.progress.todo.find(other => other > number) ?? state.progress.todo[0];
  if (next !== undefined) state.leaving = setTimeout(() => show(next), PAUSE_MS);
}

function go(step) {
  const number = state.number + step;
  if (number >= 0 && number < state.progress.screens) show(number);
}

function onKey(event) {
  if (at('rating').hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key.length === 1 ? event.key.toUpperCase() : event.key;
  const moves = {ArrowLeft: () => go(-1), ArrowRight: () => go(1), E: toggleEarlier};
  if (isPairs()) {
    for (const [choice, name] of CHOICES) moves[name] = () => choose(choice);
    moves.Backspace = moves.Delete = () => choose(null);
  } else {
    for (const level of state.progress.levels) moves[level.key] = () => rate(level.key);
    moves.Backspace = moves.Delete = () => rate(null);
    moves.ArrowUp = () => mark(Math.max(0, state.current - 1));
    moves.ArrowDown = () => mark(Math.min(state.screen.answers.length - 1, state.current + 1));
  }
  // While the page turns, a key would rate what is about to go.
  const isRating = !['ArrowLeft', 'ArrowRight', 'E'].includes(key);
  if (!moves[key] || !state.screen || (isRating && state.leaving && key !== 'Backspace' && key !== 'Delete')) return;
  event.preventDefault();
  moves[key]();
}

function toggleEarlier() {
  const all = [...document.querySelectorAll('.card details')];
  const isOpen = all.some(details => !details.open);
  for (const details of all) details.open = isOpen;
}

async function start() {
  const {mode, store} = await ask('/api/mode');
  state.store = store;
  send();
  at('start-levels').hidden = mode !== 'levels';
  at('start-pairs').hidden = mode !== 'pairs';
  at('start').hidden = false;
  at('name').value = localStorage.getItem(NAME) || '';
  at('name').focus();
}

at('name-form').addEventListener('submit', event => {
  event.preventDefault();
  begin(at('name').value).catch(error => { at('name-error').textContent = error.message; });
});
at('leave').addEventListener('click', () => { localStorage.removeItem(NAME); location.reload(); });
at('previous').addEventListener('click', () => go(-1));
at('next').addEventListener('click', () => go(1));
document.addEventListener('keydown', onKey);
start();
