//! What was masked in a case's conversation, for the person who has to call the customer back.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::base::clock::{UnixMs, format_local};
use crate::base::id::CaseId;
use crate::http::pages::lang_of;
use crate::http::people::{ByWhom, Failed, blocking, named};
use crate::http::state::HttpState;
use crate::pipeline::personal::{Restored, ShowError, show};
use crate::store::StoreError;
use crate::store::personal::Whose;

#[derive(Serialize)]
pub(super) struct PersonalView {
    /// As the customer wrote them, oldest first.
    messages: Vec<MessageView>,
    /// Sealed with a key that is not here, or changed since.
    unreadable: usize,
}

#[derive(Serialize)]
struct MessageView {
    at: UnixMs,
    time: String,
    text: String,
}

impl From<ShowError> for Failed {
    fn from(error: ShowError) -> Self {
        match error {
            ShowError::Store(error) => Self::Store(error),
            ShowError::Nothing => Self::NothingKept,
            ShowError::Unreadable => Self::Unreadable,
        }
    }
}

/// Whether there is something that [`personal_of`] could show.
pub(super) fn is_kept(state: &HttpState, id: &CaseId) -> Result<bool, StoreError> {
    Ok(state.vault.is_some() && !state.store.kept(&Whose::Case(id.clone()))?.is_empty())
}

pub(super) fn personal_of(
    state: &HttpState,
    id: &CaseId,
    by: &ByWhom,
) -> Result<PersonalView, Failed> {
    let vault = state.vault.as_ref().ok_or(Failed::NothingKept)?;
    let (operator, whose) = (named(&by.operator)?, Whose::Case(id.clone()));
    let shown = show(state.store.as_ref(), vault, &whose, &operator, state.clock.now())?;
    let view = |Restored { at, text }| MessageView { at, time: format_local(at), text };
    let messages = shown.messages.into_iter().map(view).collect();
    Ok(PersonalView { messages, unreadable: shown.unreadable })
}

/// `GET /api/cases/{id}/personal?operator=…`.
pub(super) async fn personal(
    State(state): State<HttpState>,
    Path(id): Path<String>,
    Query(by): Query<ByWhom>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let lang = lang_of(&headers, &uri);
    let id = CaseId::from_text(id);
    match blocking(move || personal_of(&state, &id, &by)).await {
        Ok(view) => ([(header::CACHE_CONTROL, "no-store")], Json(view)).into_response(),
        Err(failed) => failed.answer(lang),
    }
}
