//! Who speaks with a customer: the bot, one person, or the platform's own desk; never two of them.

use crate::base::clock::UnixMs;

/// Whoever it is, until then; the bot again afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    #[default]
    Bot,
    Person {
        operator: String,
        until: UnixMs,
    },
    /// The platform's desk: customers' messages go there, mostly past us.
    Platform {
        until: UnixMs,
    },
}

/// What changes the owner. `until` is when the conversation goes back by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A person takes the conversation, or keeps it longer by speaking.
    Take {
        operator: String,
        until: UnixMs,
    },
    HandBack {
        operator: String,
    },
    /// The conversation went to the platform's desk.
    Transfer {
        until: UnixMs,
    },
    /// The platform's desk is done with it.
    SessionEnded,
}

/// Why a change is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{operator} has the conversation")]
    Held { operator: String, until: UnixMs },
    /// Take it first: the time may have run out.
    #[error("nobody has the conversation: claim it first")]
    NotHeld,
    #[error("the platform's own desk has the conversation")]
    AtPlatform { until: UnixMs },
}

impl Owner {
    /// The owner at a moment: what was lent until then has gone back.
    pub fn at(self, now: UnixMs) -> Self {
        match self {
            Self::Person { until, .. } | Self::Platform { until } if until <= now => Self::Bot,
            owner @ (Self::Bot | Self::Person { .. } | Self::Platform { .. }) => owner,
        }
    }

    pub fn is_bot(&self, now: UnixMs) -> bool {
        self.clone().at(now) == Self::Bot
    }

    /// Whether this person may speak now.
    pub fn is_person(&self, operator: &str, now: UnixMs) -> bool {
        matches!(self.clone().at(now), Self::Person { operator: own, .. } if own == operator)
    }

    /// The owner after a change.
    ///
    /// # Errors
    /// When someone else has the conversation.
    pub fn after(self, change: Change, now: UnixMs) -> Result<Self, Refused> {
        match (self.at(now), change) {
            (Self::Person { operator: own, until }, Change::Take { operator, .. })
            | (Self::Person { operator: own, until }, Change::HandBack { operator })
                if own != operator =>
            {
                Err(Refused::Held { operator: own, until })
            }
            (Self::Bot | Self::Person { .. }, Change::Take { operator, until }) => {
                Ok(Self::Person { operator, until })
            }
            (Self::Person { .. }, Change::HandBack { .. }) => Ok(Self::Bot),
            (Self::Bot, Change::HandBack { .. }) => Err(Refused::NotHeld),
            (Self::Platform { until }, Change::Take { .. } | Change::HandBack { .. }) => {
                Err(Refused::AtPlatform { until })
            }
            // The platform does not ask: whoever had it, has it no more.
            (_, Change::Transfer { until }) => Ok(Self::Platform { until }),
            (Self::Platform { .. }, Change::SessionEnded) => Ok(Self::Bot),
            (owner @ (Self::Bot | Self::Person { .. }), Change::SessionEnded) => Ok(owner),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The plain twin: who holds it, and until when.
    #[derive(Default)]
    struct Model {
        holder: Option<(String, UnixMs)>,
    }

    const PLATFORM: &str = "(platform)";

    impl Model {
        fn holder(&self, now: UnixMs) -> Option<&str> {
            self.holder.as_ref().filter(|(_, until)| *until > now).map(|(who, _)| who.as_str())
        }

        /// True when the change is allowed, and then done.
        fn step(&mut self, change: &Change, now: UnixMs) -> bool {
            let holder = self.holder(now).map(str::to_owned);
            let free_or = |who: &str| holder.as_deref().is_none_or(|h| h == who);
            match change {
                Change::Take { operator, until } if free_or(operator) => {
                    self.holder = Some((operator.clone(), *until));
                }
                Change::HandBack { operator } if holder.as_deref() == Some(operator) => {
                    self.holder = None;
                }
                Change::Transfer { until } => self.holder = Some((PLATFORM.into(), *until)),
                Change::SessionEnded if holder.as_deref() == Some(PLATFORM) => self.holder = None,
                Change::SessionEnded => {}
                Change::Take { .. } | Change::HandBack { .. } => return false,
            }
            true
        }
    }

    fn change() -> impl Strategy<Value = (u8, bool, UnixMs)> {
        (0_u8..4, any::<bool>(), 1_i64..50)
    }

    proptest! {
        #[test]
        fn at_every_moment_one_may_speak(steps in prop::collection::vec((change(), 0_i64..20), 1..60)) {
            let (mut owner, mut model, mut now) = (Owner::default(), Model::default(), 0);
            for ((kind, anna, lease), passed) in steps {
                now += passed;
                let operator = if anna { "anna" } else { "ben" }.to_owned();
                let until = now + lease;
                let change = match kind {
                    0 => Change::Take { operator, until },
                    1 => Change::HandBack { operator },
                    2 => Change::Transfer { until },
                    _ => Change::SessionEnded,
                };
                let allowed = model.step(&change, now);
                match owner.clone().after(change, now) {
                    Ok(next) => { prop_assert!(allowed); owner = next; }
                    Err(_) => prop_assert!(!allowed),
                }
                let speakers = [
                    (owner.is_bot(now), None),
                    (owner.is_person("anna", now), Some("anna")),
                    (owner.is_person("ben", now), Some("ben")),
                ];
                let speaking = speakers.iter().filter(|(may, _)| *may).count();
                let at_platform = model.holder(now) == Some(PLATFORM);
                prop_assert_eq!(speaking, usize::from(!at_platform));
                for (may, who) in speakers {
                    prop_assert_eq!(may, model.holder(now) == who);
                }
            }
        }
    }
}
