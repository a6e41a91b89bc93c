//! What people do about cases: the queue by priority, claiming, speaking, handing back, resolving.
//! JSON here; `console` shows the same on pages.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::base::clock::{UnixMs, format_local};
use crate::base::id::{CaseId, ConversationId};
use crate::domain::delivery::words_of;
use crate::domain::knowledge::{Audience, EntryId};
use crate::domain::label::Labelled;
use crate::domain::outgoing::{Menu, MenuItem, Outgoing};
use crate::domain::ownership::{Owner, Refused};
use crate::domain::texts::{Lang, Text, delivery_text, reason_text};
use crate::http::pages::lang_of;
use crate::http::personal::is_kept;
use crate::http::state::HttpState;
use crate::http::view::{TraceView, priority_text, trace_view};
use crate::pipeline::delivery::quota::{Room, room};
use crate::pipeline::desk::RATE;
use crate::store::StoreError;
use crate::store::outbox::Queued;
use crate::store::queue::{Act, OpenCase, Speaker, Spoken};

/// Cases of one answer.
const CASES: u32 = 200;
/// Lines of a conversation that come with its case.
const LINES: u32 = 100;
/// Longest name of an operator, characters.
const NAME_CHARS: usize = 64;
/// Longest key of a reply.
const KEY_CHARS: usize = 128;
/// Said in the place of an entry: none answers.
const NO_ENTRY: &str = "-";

#[derive(Serialize)]
pub(super) struct CaseView {
    id: String,
    conversation: String,
    account: String,
    opened: String,
    opened_at: UnixMs,
    waiting_s: i64,
    priority: &'static str,
    priority_text: &'static str,
    /// Codes, most telling first.
    reasons: Vec<&'static str>,
    why: Vec<&'static str>,
    owner: OwnerView,
    /// Sends that the platform still allows; `None` where it has no limit that is known.
    left: Option<u32>,
    closes_at: Option<UnixMs>,
    closes: Option<String>,
    /// The time to reply ends soon, or has ended.
    closing: bool,
    /// Something can be sent to this customer at all.
    reachable: bool,
    open: bool,
    rating: Option<u8>,
    trace: TraceView,
}

#[derive(Serialize)]
struct OwnerView {
    /// `bot`, `person`, `platform`.
    kind: &'static str,
    operator: Option<String>,
    until: Option<UnixMs>,
    until_text: Option<String>,
}

fn owner_view(owner: &Owner) -> OwnerView {
    let (kind, operator, until) = match owner {
        Owner::Bot => ("bot", None, None),
        Owner::Person { operator, until } => ("person", Some(operator.clone()), Some(*until)),
        Owner::Platform { until } => ("platform", None, Some(*until)),
    };
    OwnerView { kind, operator, until, until_text: until.map(format_local) }
}

#[derive(Serialize)]
pub(super) struct LineView {
    /// `customer`, `bot`, `person`, `courtesy`.
    who: &'static str,
    text: String,
    at: UnixMs,
    time: String,
    state: Option<&'static str>,
    state_text: Option<&'static str>,
}

fn line_view(line: Spoken, lang: Lang) -> LineView {
    let who = match line.speaker {
        Speaker::Customer => "customer",
        Speaker::Us(author) => author.as_str(),
    };
    LineView {
        who,
        text: line.text,
        at: line.at,
        time: format_local(line.at),
        state: line.state.map(crate::domain::delivery::DeliveryState::as_str),
        state_text: line.state.map(|state| delivery_text(state).get(lang)),
    }
}

/// Everything that the person who takes over needs.
#[derive(Serialize)]
pub(super) struct Package {
    case: CaseView,
    history: Vec<LineView>,
    /// Something of it was masked that can be shown.
    personal: bool,
}

fn case_view(state: &HttpState, case: &OpenCase, lang: Lang) -> CaseView {
    let now = state.clock.now();
    let abilities = state.accounts.get(&case.trace.account).map(|channel| channel.abilities());
    let room = room(abilities.map_or(&[], |a| &a.quotas), &case.contact, now);
    let (left, closes_at) = match room {
        Room::Unlimited => (None, None),
        Room::Open { left, closes_at } => (Some(left), Some(closes_at)),
        Room::Closed => (Some(0), None),
    };
    let soon = i64::try_from(state.handoff.closing.as_millis()).unwrap_or(i64::MAX);
    let reasons = || case.note.iter().chain(&case.trace.decision.reasons);
    CaseView {
        id: case.id.to_string(),
        conversation: case.conversation.to_string(),
        account: case.trace.account.to_string(),
        opened: format_local(case.opened_at),
        opened_at: case.opened_at,
        waiting_s: now.saturating_sub(case.opened_at) / 1000,
        priority: case.priority.as_str(),
        priority_text: priority_text(case.priority).get(lang),
        reasons: reasons().map(|reason| reason.as_str()).collect(),
        why: reasons().map(|reason| reason_text(*reason).get(lang)).collect(),
        owner: owner_view(&case.owner),
        left,
        closes_at,
        closes: closes_at.map(format_local),
        closing: left == Some(0) || closes_at.is_some_and(|at| at < now.saturating_add(soon)),
        reachable: case.target.is_some() && abilities.is_some_and(|a| a.send),
        open: case.closed_at.is_none(),
        rating: case.rating,
        trace: trace_view(&case.trace, lang),
    }
}

/// Why an act was not done.
pub(super) enum Failed {
    Store(StoreError),
    /// What the person wrote cannot be taken.
    Input(Text),
    /// Nothing was masked there, or there was no vault then, or there is none now.
    NothingKept,
    /// Sealed with a key that is not here, or changed since.
    Unreadable,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failed {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Input(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NothingKept | Self::Store(StoreError::NoSuchCase(_)) => StatusCode::NOT_FOUND,
            Self::Unreadable => StatusCode::CONFLICT,
            Self::Store(StoreError::KeyUsed) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Store(StoreError::Refused(_) | StoreError::NoWayToCustomer) => {
                StatusCode::CONFLICT
            }
            Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn text(&self) -> Text {
        match self {
            Self::Input(text) => *text,
            Self::NothingKept => Text::PersonalNone,
            Self::Unreadable => Text::PersonalUnreadable,
            Self::Store(StoreError::NoSuchCase(_)) => Text::CaseGone,
            Self::Store(StoreError::Refused(Refused::Held { .. })) => Text::CaseHeld,
            Self::Store(StoreError::Refused(Refused::NotHeld)) => Text::CaseNotHeld,
            Self::Store(StoreError::Refused(Refused::AtPlatform { .. })) => Text::CaseAtPlatform,
            Self::Store(StoreError::NoWayToCustomer) => Text::NoWayToCustomer,
            Self::Store(StoreError::KeyUsed) => Text::KeyUsed,
            Self::Store(_) => Text::StoreAway,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Input(text) => text.name(),
            Self::NothingKept => "nothing_kept",
            Self::Unreadable => "unreadable",
            Self::Store(StoreError::NoSuchCase(_)) => "no_such_case",
            Self::Store(StoreError::Refused(Refused::Held { .. })) => "held",
            Self::Store(StoreError::Refused(Refused::NotHeld)) => "not_held",
            Self::Store(StoreError::Refused(Refused::AtPlatform { .. })) => "at_platform",
            Self::Store(StoreError::NoWayToCustomer) => "no_way_to_customer",
            Self::Store(StoreError::KeyUsed) => "key_used",
            Self::Store(_) => "store_unavailable",
        }
    }

    pub(super) fn answer(&self, lang: Lang) -> Response {
        let operator = match self {
            Self::Store(StoreError::Refused(Refused::Held { operator, .. })) => Some(operator),
            Self::Store(error) => {
                tracing::warn!(%error, "a case");
                None
            }
            Self::Input(_) | Self::NothingKept | Self::Unreadable => None,
        };
        let body = json!({
            "error": self.code(), "text": self.text().get(lang), "operator": operator,
        });
        (self.status(), Json(body)).into_response()
    }
}

/// Calls that are asked for by their last part of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Doing {
    Claim,
    Reply,
    HandBack,
    Resolve,
}

/// Who does it, and what is said.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ByWhom {
    pub(super) operator: String,
    pub(super) text: String,
    /// Names one reply: asked for again under it, it is not sent again. As header `Idempotency-Key`
    /// as well, which goes before.
    pub(super) key: String,
    /// With `resolve`: the entry that answers the message, or [`NO_ENTRY`]; empty where nobody says.
    pub(super) entry: String,
}

pub(super) fn queue_of(state: &HttpState, lang: Lang) -> Result<Vec<CaseView>, StoreError> {
    let cases = state.store.open_cases(CASES, state.clock.now())?;
    Ok(cases.iter().map(|case| case_view(state, case, lang)).collect())
}

pub(super) fn package_of(
    state: &HttpState,
    id: &CaseId,
    lang: Lang,
) -> Result<Package, StoreError> {
    let case = state.store.case(id, state.clock.now())?;
    let case = case.ok_or_else(|| StoreError::NoSuchCase(id.to_string()))?;
    let history = state.store.spoken(&case.conversation, LINES)?;
    let history = history.into_iter().map(|line| line_view(line, lang)).collect();
    let personal = is_kept(state, id)?;
    Ok(Package { case: case_view(state, &case, lang), history, personal })
}

pub(super) fn perform(
    state: &HttpState,
    id: &CaseId,
    doing: Doing,
    by: &ByWhom,
) -> Result<Owner, Failed> {
    let now = state.clock.now();
    let operator = named(&by.operator)?;
    let claim = i64::try_from(state.handoff.claim.as_millis()).unwrap_or(i64::MAX);
    let until = now.saturating_add(claim);
    let act = match doing {
        Doing::Claim => Act::Claim { operator, until },
        Doing::HandBack => Act::HandBack { operator },
        Doing::Reply => {
            let payload = Outgoing::Text(checked(state, id, &by.text)?);
            Act::Reply { operator, until, payload, key: key(&by.key)? }
        }
        Doing::Resolve => {
            let (survey, label) = (survey(state, id)?, label(state, id, &by.entry)?);
            Act::Resolve { operator, survey, label }
        }
    };
    let owner = state.store.act(id, &act, now)?;
    state.bell.ring();
    Ok(owner)
}

/// What the caller names the reply; nobody has to.
fn key(key: &str) -> Result<Option<String>, Failed> {
    let key = key.trim();
    if key.chars().count() > KEY_CHARS {
        return Err(Failed::Input(Text::KeyTooLong));
    }
    Ok(Some(key.to_owned()).filter(|key| !key.is_empty()))
}

/// What a person found: which entry answers the case's message. It trains the next gate, and tells
/// the watch whether an automatic reply to the same words is right.
fn label(state: &HttpState, id: &CaseId, entry: &str) -> Result<Option<Labelled>, Failed> {
    let entry = entry.trim();
    let case = state.store.case(id, state.clock.now())?;
    let Some(trace) = case.map(|case| case.trace).filter(|_| !entry.is_empty()) else {
        return Ok(None);
    };
    // What is no words (a picture) teaches nothing.
    if trace.understanding.question.is_empty() {
        return Ok(None);
    }
    let answer = EntryId(entry.to_owned());
    if entry != NO_ENTRY && state.store.entries_by_id(std::slice::from_ref(&answer))?.is_empty() {
        return Err(Failed::Input(Text::EntryUnknown));
    }
    let answer = Some(answer).filter(|_| entry != NO_ENTRY);
    Ok(Some(Labelled { text: trace.message, context: trace.context, answer }))
}

/// Who does it: nothing is done by nobody.
pub(super) fn named(operator: &str) -> Result<String, Failed> {
    let operator = operator.trim();
    if operator.is_empty() || operator.chars().count() > NAME_CHARS {
        return Err(Failed::Input(Text::NameNeeded));
    }
    Ok(operator.to_owned())
}

/// A reply that the channel takes whole: what a person wrote is not cut.
fn checked(state: &HttpState, id: &CaseId, text: &str) -> Result<String, Failed> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Failed::Input(Text::ReplyEmpty));
    }
    let case = state.store.case(id, state.clock.now())?;
    let case = case.ok_or_else(|| StoreError::NoSuchCase(id.to_string()))?;
    match state.accounts.get(&case.trace.account) {
        Some(channel) if !channel.abilities().send => {
            Err(Failed::Store(StoreError::NoWayToCustomer))
        }
        Some(channel) if !channel.abilities().text.holds(text) => {
            Err(Failed::Input(Text::ReplyTooLong))
        }
        Some(_) => Ok(text.to_owned()),
        None => Err(Failed::Store(StoreError::NoWayToCustomer)),
    }
}

/// The question how it was, by menu where the channel has them; `None` where nothing can be asked.
fn survey(state: &HttpState, id: &CaseId) -> Result<Option<Outgoing>, Failed> {
    let case = state.store.case(id, state.clock.now())?;
    let case = case.ok_or_else(|| StoreError::NoSuchCase(id.to_string()))?;
    let channel = state.accounts.get(&case.trace.account);
    let Some(channel) = channel.filter(|c| state.handoff.survey && c.abilities().send) else {
        return Ok(None);
    };
    let lang = Lang::from_tag(&case.trace.understanding.language);
    if !channel.abilities().menu {
        return Ok(Some(Outgoing::Text(Text::SurveyReply.get(lang).to_owned())));
    }
    let choices = [(3, Text::SurveyGood), (2, Text::SurveyFair), (1, Text::SurveyPoor)];
    let items = choices.map(|(score, text)| MenuItem {
        id: format!("{RATE}{id}:{score}"),
        text: text.get(lang).to_owned(),
    });
    let menu = Menu { items: items.to_vec(), ..Menu::text(Text::SurveyHead.get(lang)) };
    Ok(Some(Outgoing::Menu(menu)))
}

/// `GET /api/queue`.
pub(super) async fn queue(
    State(state): State<HttpState>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let lang = lang_of(&headers, &uri);
    let cases = blocking(move || Ok(queue_of(&state, lang)?)).await;
    answer(cases.map(|cases| json!({ "cases": cases })), lang)
}

/// `GET /api/cases/{id}`.
pub(super) async fn case(
    State(state): State<HttpState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let lang = lang_of(&headers, &uri);
    answer(blocking(move || Ok(package_of(&state, &CaseId::from_text(id), lang)?)).await, lang)
}

/// `POST /api/cases/{id}/{claim|reply|hand-back|resolve}`; answers who has the conversation then.
pub(super) async fn act(
    State(state): State<HttpState>,
    Path((id, doing)): Path<(String, Doing)>,
    headers: HeaderMap,
    uri: Uri,
    Json(mut by): Json<ByWhom>,
) -> Response {
    let lang = lang_of(&headers, &uri);
    if let Some(key) = headers.get("idempotency-key").and_then(|key| key.to_str().ok()) {
        key.clone_into(&mut by.key);
    }
    let done = blocking(move || perform(&state, &CaseId::from_text(id), doing, &by)).await;
    answer(done.map(|owner| json!({ "owner": owner_view(&owner) })), lang)
}

#[derive(Deserialize)]
pub(super) struct Set {
    audience: Audience,
}

/// `PUT /api/conversations/{id}/audience`.
pub(super) async fn set_audience(
    State(state): State<HttpState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
    Json(set): Json<Set>,
) -> Response {
    let lang = lang_of(&headers, &uri);
    let id = ConversationId::from_text(id);
    let done = blocking(move || Ok(state.store.set_audience(&id, set.audience)?)).await;
    answer(done.map(|()| json!({ "audience": set.audience })), lang)
}

#[derive(Serialize)]
pub(super) struct DeadView {
    key: String,
    account: String,
    author: &'static str,
    state: &'static str,
    attempts: u32,
    note: String,
    created: String,
    text: String,
    trace: Option<String>,
}

pub(super) fn undelivered_of(state: &HttpState) -> Result<Vec<DeadView>, StoreError> {
    let view = |row: Queued| DeadView {
        key: row.key,
        account: row.account.to_string(),
        author: row.author.as_str(),
        state: row.state.as_str(),
        attempts: row.attempts,
        note: row.note,
        created: format_local(row.created_at),
        text: words_of(&row.payload).to_owned(),
        trace: row.trace.map(|trace| trace.to_string()),
    };
    Ok(state.store.undelivered(CASES)?.into_iter().map(view).collect())
}

/// `GET /api/outbox/undelivered`: what did not reach its customer, newest first.
pub(super) async fn undelivered(
    State(state): State<HttpState>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let lang = lang_of(&headers, &uri);
    let found = blocking(move || Ok(undelivered_of(&state)?)).await;
    answer(found.map(|replies| json!({ "replies": replies })), lang)
}

fn answer<T: Serialize>(done: Result<T, Failed>, lang: Lang) -> Response {
    match done {
        Ok(body) => Json(body).into_response(),
        Err(failed) => failed.answer(lang),
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<T, Failed> {
    let gone = |_| Failed::Store(StoreError::Unavailable("the request panicked".into()));
    tokio::task::spawn_blocking(work).await.map_err(gone)?
}
