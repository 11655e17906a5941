//! Which events a subscription wants to see.

use std::collections::BTreeSet;

use actadb_model::event::Event;
use actadb_model::names::EventName;

/// Takes events by their name and by the beginning of their stream's id; both must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    names: Option<BTreeSet<String>>,
    prefix: Option<String>,
}

impl Filter {
    /// Takes everything.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Takes only events of these names.
    #[must_use]
    pub fn names(mut self, names: impl IntoIterator<Item = EventName>) -> Self {
        self.names = Some(names.into_iter().map(|name| name.as_str().to_owned()).collect());
        self
    }

    /// Takes only events of streams whose id begins so.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Whether it takes everything.
    #[must_use]
    pub fn takes_all(&self) -> bool {
        self.names.is_none() && self.prefix.is_none()
    }

    /// Whether it takes an event.
    #[must_use]
    pub fn takes(&self, event: &Event) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(event.name()))
            && self.prefix.as_ref().is_none_or(|prefix| event.stream().starts_with(prefix))
    }
}
