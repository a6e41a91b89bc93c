//! What may still be sent in a conversation, and what of the waiting replies goes first.
//!
//! Pure: the platform's quotas, when the customer last gave an occasion, and what was sent since, in;
//! a plan out. One send is always kept for a person.

use crate::base::clock::UnixMs;
use crate::channels::{Quota, Scene};
use crate::domain::decision::Reason;
use crate::domain::delivery::{Author, Occasion};
use crate::store::outbox::Contact;

/// Kept from the bot in every window, so that a person can still speak.
pub const KEPT_FOR_PERSON: u32 = 1;

/// What the platform lets be sent at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// No quota is known.
    Unlimited,
    Open {
        left: u32,
        closes_at: UnixMs,
    },
    /// The customer has to write first.
    Closed,
}

pub fn occasion(scene: Scene) -> Occasion {
    match scene {
        Scene::Message => Occasion::Message,
        Scene::Menu => Occasion::Menu,
        Scene::Enter => Occasion::Enter,
    }
}

/// Quotas of different occasions do not add up: the largest that is open holds.
pub fn room(quotas: &[Quota], contact: &Contact, now: UnixMs) -> Room {
    if quotas.is_empty() {
        return Room::Unlimited;
    }
    let open = quotas.iter().filter_map(|quota| {
        let (_, at) = contact.occasions.iter().find(|(o, _)| *o == occasion(quota.scene))?;
        let window = i64::try_from(quota.window.as_millis()).unwrap_or(i64::MAX);
        let closes_at = at.saturating_add(window);
        let used = contact.sent.iter().filter(|sent| *sent >= at).count();
        let left = quota.count.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX));
        (now < closes_at).then_some((left, closes_at))
    });
    open.max().map_or(Room::Closed, |(left, closes_at)| Room::Open { left, closes_at })
}

/// A waiting reply, as far as planning needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub author: Author,
    /// `None` for what cannot be joined to something else (menus).
    pub text: Option<&'a str>,
}

/// What to do with the first of the waiting replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// So many of them in one send.
    Send(usize),
    /// So many of them are for a person to see to.
    Hand(usize, Reason),
    /// The first is not worth what is left.
    Drop,
}

/// Between replies that leave together.
pub const BETWEEN: &str = "\n\n";

/// `fits`: whether a text is one message of the channel. `pieces` is not empty.
pub fn plan(pieces: &[Piece<'_>], room: Room, fits: impl Fn(&str) -> bool) -> Plan {
    let Some(first) = pieces.first() else { return Plan::Send(0) };
    let left = match room {
        Room::Unlimited => return Plan::Send(1),
        Room::Closed if first.author == Author::Courtesy => return Plan::Drop,
        Room::Closed => return Plan::Hand(alike(pieces), Reason::WindowClosed),
        Room::Open { left, .. } => left,
    };
    match first.author {
        Author::Person if left > 0 => Plan::Send(1),
        Author::Person => Plan::Hand(1, Reason::QuotaUsed),
        Author::Courtesy if left > KEPT_FOR_PERSON => Plan::Send(1),
        Author::Courtesy => Plan::Drop,
        Author::Bot => match left.saturating_sub(KEPT_FOR_PERSON) as usize {
            0 => Plan::Hand(alike(pieces), Reason::QuotaUsed),
            free => Plan::Send(joined(pieces, free, fits)),
        },
    }
}

/// How many of the first are of one author.
fn alike(pieces: &[Piece<'_>]) -> usize {
    pieces.iter().take_while(|p| p.author == pieces[0].author).count()
}

/// How many of the first go together, so that all of them need no more sends than are free.
fn joined(pieces: &[Piece<'_>], free: usize, fits: impl Fn(&str) -> bool) -> usize {
    let wanted = alike(pieces).saturating_sub(free - 1).max(1);
    let mut text = String::new();
    let mut count = 0;
    for piece in &pieces[..wanted] {
        let Some(next) = piece.text else { break };
        if count > 0 {
            text.push_str(BETWEEN);
        }
        text.push_str(next);
        if count > 0 && !fits(&text) {
            break;
        }
        count += 1;
    }
    count.max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;
    const MP: [Quota; 2] = [
        Quota { scene: Scene::Message, count: 5, window: Duration::from_secs(48 * 3_600) },
        Quota { scene: Scene::Menu, count: 3, window: Duration::from_secs(60) },
    ];

    fn contact(message: Option<i64>, menu: Option<i64>, sent: &[i64]) -> Contact {
        let at = |o, t: Option<i64>| t.map(|t| (o, t));
        let occasions = [at(Occasion::Message, message), at(Occasion::Menu, menu)];
        Contact { occasions: occasions.into_iter().flatten().collect(), sent: sent.to_vec() }
    }

    #[test]
    fn the_largest_open_window_holds() {
        let closes_at = 48 * HOUR;
        let of = |message, menu, sent: &[i64], now| room(&MP, &contact(message, menu, sent), now);
        assert_eq!(of(Some(0), None, &[], 1), Room::Open { left: 5, closes_at });
        assert_eq!(
            of(Some(0), Some(10), &[5, 6, 7], 20),
            Room::Open { left: 3, closes_at: 60_010 }
        );
        assert_eq!(of(Some(0), None, &[-1, 5, 6], 7), Room::Open { left: 3, closes_at });
        assert_eq!(of(Some(0), None, &[], 48 * HOUR), Room::Closed);
        assert_eq!(of(None, None, &[], 1), Room::Closed);
        assert_eq!(room(&[], &contact(None, None, &[]), 1), Room::Unlimited);
    }

    fn bot(text: &str) -> Piece<'_> {
        Piece { author: Author::Bot, text: Some(text) }
    }

    #[test]
    fn answers_are_merged_into_what_is_left() {
        let open = |left| Room::Open { left, closes_at: 1 };
        let three = [bot("a"), bot("b"), bot("c")];
        let fits = |text: &str| text.len() <= 6;
        assert_eq!(plan(&three, open(5), fits), Plan::Send(1));
        assert_eq!(plan(&three, open(3), fits), Plan::Send(2));
        assert_eq!(plan(&three, open(2), |_| true), Plan::Send(3));
        assert_eq!(plan(&three, open(2), fits), Plan::Send(2), "no more fit");
        assert_eq!(plan(&three, open(1), fits), Plan::Hand(3, Reason::QuotaUsed));
        let person = Piece { author: Author::Person, text: Some("x") };
        assert_eq!(plan(&[person], open(1), fits), Plan::Send(1));
        assert_eq!(plan(&[person], Room::Closed, fits), Plan::Hand(1, Reason::WindowClosed));
        let courtesy = Piece { author: Author::Courtesy, text: None };
        assert_eq!(plan(&[courtesy], open(1), fits), Plan::Drop);
    }

    proptest! {
        /// Whatever is written and whenever: the platform is never asked for more than it allows,
        /// and the last send is a person's.
        #[test]
        fn no_window_is_overdrawn(
            acts in prop::collection::vec((0_u8..5, 0_i64..20 * HOUR), 1..60),
        ) {
            let (mut now, mut last, mut sent) = (0_i64, None, Vec::<i64>::new());
            for (act, passed) in acts {
                now += passed + 1;
                if act == 0 {
                    last = Some(now);
                    continue;
                }
                let author = if act == 4 { Author::Person } else { Author::Bot };
                let mut waiting = vec![Piece { author, text: Some("x") }; usize::from(act)];
                while !waiting.is_empty() {
                    let room = room(&MP, &contact(last, None, &sent), now);
                    let taken = match plan(&waiting, room, |_| true) {
                        Plan::Send(count) => {
                            let since = last.expect("nothing is sent before the customer wrote");
                            prop_assert!(now < since + 48 * HOUR);
                            sent.insert(0, now);
                            let used = sent.iter().filter(|at| **at >= since).count();
                            prop_assert!(used <= 5, "the platform would refuse");
                            prop_assert!(used <= 4 || author == Author::Person);
                            count
                        }
                        Plan::Hand(count, _) => count,
                        Plan::Drop => 1,
                    };
                    prop_assert!(taken >= 1);
                    waiting.drain(..taken);
                }
            }
        }
    }
}
