//! Personal data of a message: taken out before it is stored, sealed, and put back for who may see it.

use crate::base::clock::UnixMs;
use crate::base::limits::PERSONAL_BYTES;
use crate::base::vault::Vault;
use crate::domain::message::{Content, Inbound};
use crate::store::personal::{Kept, Whose};
use crate::store::{Arrival, Store, StoreError};
use crate::understand::PersonalKind;
use crate::understand::pii::{self, PersonalData};

/// An attachment whose reference is an address.
const LOCATION: &str = "location";
/// Begins what a seal is bound to, so that it is good for nothing else.
const PURPOSE: &str = "huida.personal.1";

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing was masked, or there was no vault then.
    #[error("nothing is kept there")]
    Nothing,
    /// Name the key of that time as `vault.previous_key_file`.
    #[error("what is kept there was sealed with another key, or was changed since")]
    Unreadable,
}

/// A message as the customer wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub at: UnixMs,
    pub text: String,
}

/// What is shown to whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Oldest first.
    pub messages: Vec<Restored>,
    /// Messages besides that another key sealed, or that were changed since.
    pub unreadable: usize,
}

/// What may be written down.
pub(super) fn masked(inbound: &Inbound) -> Inbound {
    let content = match &inbound.content {
        Content::Text(text) => Content::Text(pii::mask(text).text),
        Content::Choice { id, text } => {
            Content::Choice { id: id.clone(), text: pii::mask(text).text }
        }
        Content::Voice { transcript } => {
            Content::Voice { transcript: transcript.as_ref().map(|t| pii::mask(t).text) }
        }
        Content::Attachment { what, reference } => Content::Attachment {
            what: what.clone(),
            reference: reference.as_ref().filter(|_| what != LOCATION).cloned(),
        },
        other @ (Content::Event { .. } | Content::Unknown { .. }) => other.clone(),
    };
    Inbound { content, ..inbound.clone() }
}

/// The same of an arrival, and what was taken out sealed where there is a vault.
pub(super) fn stored(arrival: &Arrival, vault: Option<&Vault>) -> Arrival {
    let sealed = vault.and_then(|vault| seal(&arrival.inbound, vault));
    Arrival { inbound: masked(&arrival.inbound), sealed, ..arrival.clone() }
}

/// What is kept, opened, with its line in the audit log written before.
pub fn show(
    store: &dyn Store,
    vault: &Vault,
    whose: &Whose,
    by: &str,
    now: UnixMs,
) -> Result<Shown, ShowError> {
    let kept = store.kept(whose)?;
    if kept.is_empty() {
        return Err(ShowError::Nothing);
    }
    let opened = kept.iter().filter_map(|kept| Some((kept.message, open(kept, vault)?)));
    let (rows, messages): (Vec<_>, Vec<_>) = opened.unzip();
    if messages.is_empty() {
        return Err(ShowError::Unreadable);
    }
    store.note_shown(whose, &rows, by, now)?;
    Ok(Shown { unreadable: kept.len() - messages.len(), messages })
}

/// A message that cannot be sealed is stored all the same: the customer waits for an answer.
fn seal(inbound: &Inbound, vault: &Vault) -> Option<Vec<u8>> {
    let mut taken = taken(&inbound.content);
    let mut plain = serde_json::to_vec(&taken).ok()?;
    while plain.len() > PERSONAL_BYTES {
        taken.truncate(taken.len() / 2);
        plain = serde_json::to_vec(&taken).ok()?;
    }
    if taken.is_empty() {
        return None;
    }
    match vault.seal(&plain, &identity(inbound)) {
        Ok(sealed) => Some(sealed),
        Err(error) => {
            tracing::error!(%error, "what was masked in a message is lost");
            None
        }
    }
}

fn open(kept: &Kept, vault: &Vault) -> Option<Restored> {
    let plain = vault.open(&kept.sealed, &identity(&kept.inbound))?;
    let taken: Vec<PersonalData> = serde_json::from_slice(&plain).ok()?;
    let text = restored(&kept.inbound.content, &taken)?;
    Some(Restored { at: kept.received_at, text })
}

/// What a message is known by at its platform: what was sealed with one opens with no other. Each part
/// has its length before it, so that no two messages have the same bytes.
fn identity(inbound: &Inbound) -> Vec<u8> {
    let parts = [PURPOSE, inbound.account.as_str(), &inbound.sender, &inbound.dedupe_key];
    let bytes =
        parts.map(|part| [&(part.len() as u64).to_le_bytes()[..], part.as_bytes()].concat());
    bytes.concat()
}

/// What [`masked`] takes out.
fn taken(content: &Content) -> Vec<PersonalData> {
    match content {
        Content::Text(text)
        | Content::Choice { text, .. }
        | Content::Voice { transcript: Some(text) } => pii::taken(text),
        Content::Attachment { what, reference: Some(place) } if what == LOCATION => {
            let (start, end) = (0, place.chars().count());
            vec![PersonalData { kind: PersonalKind::Address, start, end, value: place.clone() }]
        }
        Content::Voice { transcript: None }
        | Content::Attachment { .. }
        | Content::Event { .. }
        | Content::Unknown { .. } => Vec::new(),
    }
}

/// The words of a masked message with what was taken out put back.
fn restored(content: &Content, taken: &[PersonalData]) -> Option<String> {
    match content {
        Content::Text(text)
        | Content::Choice { text, .. }
        | Content::Voice { transcript: Some(text) } => pii::restore(text, taken),
        Content::Attachment { .. } => taken.first().map(|place| place.value.clone()),
        Content::Voice { transcript: None } | Content::Event { .. } | Content::Unknown { .. } => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::id::TraceId;
    use crate::base::vault::{SEAL_BYTES, create_key};
    use crate::domain::message::{AccountName, Platform};
    use crate::store::MessageRow;

    fn vault(dir: &Path, name: &str) -> Vault {
        create_key(&dir.join(name)).unwrap();
        Vault::load(&dir.join(name), None).unwrap()
    }

    fn inbound(id: &str, content: Content) -> Inbound {
        Inbound {
            platform: Platform::WechatMp,
            account: AccountName("mp".into()),
            sender: "anna".into(),
            dedupe_key: format!("msg:{id}"),
            sent_at: 1,
            content,
        }
    }

    fn kept(id: &str, content: Content, vault: &Vault) -> Option<Kept> {
        let stored = stored(&Arrival::in_person(inbound(id, content)), Some(vault));
        let (inbound, sealed) = (stored.inbound, stored.sealed?);
        Some(Kept { message: MessageRow(1), inbound, received_at: 5, sealed })
    }

    fn text(text: &str) -> Content {
        Content::Text(text.into())
    }

    #[test]
    fn what_was_masked_comes_back_with_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path(), "key");
        let number = "电话13800138000，不是⟨手机号⟩";
        let place = "30.1,120.2 西湖区";
        let location =
            Content::Attachment { what: "location".into(), reference: Some(place.into()) };
        let cases = [
            (text(number), number),
            (Content::Choice { id: "1".into(), text: number.into() }, number),
            (Content::Voice { transcript: Some(number.into()) }, number),
            (location, place),
        ];
        for (content, said) in cases {
            let kept = kept("1", content, &vault).unwrap();
            let stored = format!("{:?}", kept.inbound);
            assert!(!stored.contains("138") && !stored.contains("西湖"), "{stored}");
            let digits = |w: &[u8]| w == b"13800138000";
            assert!(!kept.sealed.windows(11).any(digits));
            assert_eq!(open(&kept, &vault).unwrap(), Restored { at: 5, text: said.into() });
        }
        let image = Content::Attachment { what: "image".into(), reference: Some("id".into()) };
        for nothing in [text("怎么退货"), image, Content::Voice { transcript: None }] {
            assert!(kept("1", nothing, &vault).is_none());
        }
    }

    #[test]
    fn with_no_vault_nothing_is_kept() {
        let arrival = Arrival::in_person(inbound("1", text("电话13800138000")));
        assert_eq!(stored(&arrival, None).sealed, None);
        assert_eq!(stored(&arrival, None).inbound.content, text("电话⟨手机号⟩"));
    }

    #[test]
    fn another_key_a_tampered_row_and_a_moved_one_open_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (vault, other) = (vault(dir.path(), "key"), vault(dir.path(), "other"));
        let kept = kept("1", text("电话13800138000"), &vault).unwrap();
        assert!(open(&kept, &vault).is_some());
        assert_eq!(open(&kept, &other), None);
        for at in 0..kept.sealed.len() {
            let mut tampered = kept.clone();
            tampered.sealed[at] ^= 1;
            assert_eq!(open(&tampered, &vault), None, "byte {at}");
        }
        let moved = |change: &dyn Fn(&mut Inbound)| {
            let mut moved = kept.clone();
            change(&mut moved.inbound);
            open(&moved, &vault)
        };
        assert_eq!(moved(&|i| i.dedupe_key = "msg:2".into()), None);
        assert_eq!(moved(&|i| i.sender = "ben".into()), None);
        assert_eq!(moved(&|i| i.account = AccountName("other".into())), None);
        // The same letters, cut elsewhere.
        assert_eq!(moved(&|i| (i.sender, i.dedupe_key) = ("annam".into(), "sg:1".into())), None);
    }

    #[test]
    fn of_a_message_full_of_numbers_the_first_ones_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path(), "key");
        let said = "电话13800138000，".repeat(2_000);
        let kept = kept("1", text(&said), &vault).unwrap();
        assert!(kept.sealed.len() <= PERSONAL_BYTES + SEAL_BYTES);
        let text = open(&kept, &vault).unwrap().text;
        assert!(text.starts_with("电话13800138000，电话13800138000，"));
        assert!(text.ends_with("电话⟨手机号⟩，"));
    }

    #[test]
    fn nothing_is_shown_without_its_line_in_the_audit_log() {
        use crate::store::sqlite::SqliteStore;
        let dir = tempfile::tempdir().unwrap();
        let (vault, other) = (vault(dir.path(), "key"), vault(dir.path(), "other"));
        let file = dir.path().join("huida.db");
        let store = SqliteStore::open(&file).unwrap();
        let arrival = Arrival::in_person(inbound("1", text("电话13800138000")));
        let accepted = store.accept(&stored(&arrival, Some(&vault)), 1).unwrap();
        let raw = rusqlite::Connection::open(&file).unwrap();
        raw.execute(
            "INSERT INTO decisions (trace_id, message_id, verdict, confidence, reply, trace, decided_at)
             VALUES ('t', ?1, 'handoff', 0, '', '{}', 1)",
            [accepted.message.0],
        )
        .unwrap();
        let whose = Whose::Turn(TraceId::from_text("t"));
        let logged = || -> Vec<(String, String, String)> {
            let mut query = raw.prepare("SELECT actor, action, subject FROM audit_log").unwrap();
            let rows = query.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap();
            rows.collect::<Result<_, _>>().unwrap()
        };
        assert!(matches!(show(&store, &other, &whose, "eva", 2), Err(ShowError::Unreadable)));
        let nobody = Whose::Turn(TraceId::from_text("none"));
        assert!(matches!(show(&store, &vault, &nobody, "eva", 2), Err(ShowError::Nothing)));
        assert!(logged().is_empty(), "nothing was shown");
        let shown = show(&store, &vault, &whose, "eva", 2).unwrap();
        assert_eq!((shown.messages[0].text.as_str(), shown.unreadable), ("电话13800138000", 0));
        assert_eq!(logged(), [("eva".into(), "personal.show".into(), "t".into())]);
        raw.execute_batch(
            "CREATE TRIGGER log_is_full BEFORE INSERT ON audit_log
             BEGIN SELECT RAISE(ABORT, 'full'); END;",
        )
        .unwrap();
        assert!(matches!(show(&store, &vault, &whose, "eva", 3), Err(ShowError::Store(_))));
        raw.execute_batch("DROP TRIGGER log_is_full; PRAGMA foreign_keys = ON; DELETE FROM work; DELETE FROM decisions; DELETE FROM messages;").unwrap();
        let left: i64 = raw.query_row("SELECT count(*) FROM vault", [], |r| r.get(0)).unwrap();
        assert_eq!(left, 0, "it goes with its message");
    }
}
