//! Answers that must wait for a commit, or for a sync.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use actadb_model::numbered::Numbered;
use actadb_model::outcome::{
    AppendResult, Appended, AppendedEvent, Refusal, RefusedReason, Unknown,
};
use actadb_model::probe::{Mistake, made};

use smallvec::SmallVec;

use crate::message::{Output, Token};

/// How one transaction was decided.
#[derive(Clone, Debug)]
pub(crate) enum Decided {
    /// Numbered and proposed: positions, once it is committed.
    Proposed(Arc<Numbered>),
    /// The append that has these ids is here already: its positions, once *it* is committed.
    Replayed(Arc<Numbered>),
    /// A refusal; definite once what it was decided against is committed.
    Bad(Refusal),
}

#[derive(Clone, Debug)]
pub(crate) struct HeldResult {
    pub(crate) decided: Decided,
    /// The sequence behind the last one that must be committed first, 0 for none.
    pub(crate) until: u64,
    /// Whether that one must be synced as well.
    pub(crate) durable: bool,
}

impl HeldResult {
    /// Whether it tells the latest version of a stream. All else that is told of committed events
    /// stays true.
    fn tells_a_version(&self) -> bool {
        matches!(self.decided, Decided::Bad(Refusal::WrongVersion { .. }))
    }

    fn is_durable_replay(&self) -> bool {
        self.durable && matches!(self.decided, Decided::Replayed(_))
    }
}

#[derive(Debug)]
pub(crate) struct HeldMessage {
    pub(crate) token: Token,
    pub(crate) since_ns: u64,
    pub(crate) results: SmallVec<[HeldResult; 1]>,
}

/// What becomes of held answers when the log does not go on as hoped.
#[derive(Clone, Copy)]
pub(crate) enum Lost<'a> {
    /// From this sequence on nothing was or will be appended.
    Refused { from: u64, reason: RefusedReason },
    /// Whether proposals reached the log is not known here; the refusal is for all the rest.
    Unknown(&'a Refusal),
}

/// Messages whose answers are held, by what they wait for.
#[derive(Debug, Default)]
pub(crate) struct Held {
    commit: Queue,
    sync: Queue,
    /// By the number of the question whether this replica leads still.
    confirm: BTreeMap<u64, HeldMessage>,
    /// Whether a conflict must be confirmed before it is told: others vote, too, and another
    /// replica may lead by now whose streams are longer. What was committed when the conflict was
    /// decided is no proof; acknowledgements may be old when they arrive.
    pub(crate) confirms: bool,
    next: u64,
}

/// Messages in the order of the sequences they wait for; of one sequence, in the order they came.
#[derive(Debug, Default)]
struct Queue {
    /// Nearly all come in order.
    ordered: VecDeque<(u64, HeldMessage)>,
    /// Refusals may rest on less than what was held before them. By what they wait for, and when
    /// they came.
    early: BTreeMap<(u64, u64), HeldMessage>,
    came: u64,
}

impl Queue {
    fn hold(&mut self, until: u64, message: HeldMessage) {
        if self.ordered.back().is_none_or(|(last, _)| *last <= until) {
            self.ordered.push_back((until, message));
        } else {
            self.came += 1;
            self.early.insert((until, self.came), message);
        }
    }

    /// The first one, if it waits for no more than this.
    fn pop(&mut self, reached: u64) -> Option<HeldMessage> {
        let ordered = self.ordered.front().map(|(until, _)| *until);
        if let Some(early) = self.early.first_entry()
            // Of one sequence, those in order were here before.
            && ordered.is_none_or(|ordered| early.key().0 < ordered)
        {
            return (early.key().0 <= reached).then(|| early.remove());
        }
        ordered.filter(|until| *until <= reached)?;
        self.ordered.pop_front().map(|(_, message)| message)
    }

    fn take(&mut self) -> impl Iterator<Item = HeldMessage> + use<> {
        let mut all = std::mem::take(self);
        std::iter::from_fn(move || all.pop(u64::MAX))
    }

    /// The first one, or nearly.
    fn first(&self) -> Option<&HeldMessage> {
        let ordered = self.ordered.front().map(|(_, message)| message);
        let early = self.early.values().next();
        ordered.into_iter().chain(early).min_by_key(|message| message.since_ns)
    }

    fn len(&self) -> usize {
        self.ordered.len() + self.early.len()
    }
}

impl HeldMessage {
    fn until(&self) -> u64 {
        self.results.iter().map(|result| result.until).max().unwrap_or(0)
    }

    fn synced_until(&self) -> u64 {
        let durable = self.results.iter().filter(|result| result.durable);
        durable.map(|result| result.until).max().unwrap_or(0)
    }

    fn answer(self) -> Output {
        let results = self.results.into_iter().map(|result| final_result(result.decided));
        Output::Answer { token: self.token, results: results.collect() }
    }

    /// Replaces what is lost by a refusal or by "unknown".
    fn lose(&mut self, committed: u64, confirms: bool, lost: Lost<'_>) {
        for result in &mut self.results {
            match lost {
                Lost::Refused { from, reason } if result.until > from => {
                    let decided = Decided::Bad(reason.into());
                    *result = HeldResult { decided, until: 0, durable: false };
                }
                Lost::Refused { .. } => {}
                Lost::Unknown(refusal) => {
                    let waits = result.until > committed || result.durable;
                    let doubtful = confirms && result.tells_a_version();
                    if (waits || doubtful) && matches!(result.decided, Decided::Bad(_)) {
                        result.decided = Decided::Bad(refusal.clone());
                    }
                }
            }
        }
    }
}

fn final_result(decided: Decided) -> AppendResult {
    match decided {
        Decided::Proposed(numbered) | Decided::Replayed(numbered) => Ok(appended(&numbered)),
        Decided::Bad(refusal) => Err(refusal.into()),
    }
}

fn appended(numbered: &Numbered) -> Appended {
    Appended {
        partition_key: numbered.partition_key,
        partition: numbered.partition,
        transaction_id: numbered.transaction_id,
        first_sequence: numbered.first_sequence,
        events: numbered
            .events
            .iter()
            .map(|event| AppendedEvent {
                id: event.id,
                stream: event.stream.clone(),
                version: event.version,
                timestamp_ns: event.timestamp_ns,
            })
            .collect(),
    }
}

impl Held {
    /// This replica led until after the message was decided.
    pub(crate) fn confirmed(&mut self, number: u64, out: &mut Vec<Output>) {
        if let Some(message) = self.confirm.remove(&number) {
            out.push(message.answer());
        }
    }

    /// Holds a message, or answers it when it waits for nothing.
    pub(crate) fn hold(
        &mut self,
        message: HeldMessage,
        committed: u64,
        synced: u64,
        out: &mut Vec<Output>,
    ) {
        self.next += 1;
        let (until, synced_until) = (message.until(), message.synced_until());
        if until > committed {
            self.commit.hold(until, message);
        } else if synced_until > synced {
            // A proposal asks for its sync itself; a retry of something written before does not.
            if message.results.iter().any(HeldResult::is_durable_replay) {
                out.push(Output::WantSync);
            }
            self.sync.hold(synced_until, message);
        } else if self.confirms
            && !made(Mistake::ConflictNotConfirmed)
            && message.results.iter().any(HeldResult::tells_a_version)
        {
            self.confirm.insert(self.next, message);
            out.push(Output::Confirm { number: self.next });
        } else {
            out.push(message.answer());
        }
    }

    /// Answers what waited for no more than this.
    pub(crate) fn release(&mut self, committed: u64, synced: u64, out: &mut Vec<Output>) {
        while let Some(message) = self.commit.pop(committed) {
            self.hold(message, committed, synced, out);
        }
        while let Some(message) = self.sync.pop(synced) {
            out.push(message.answer());
        }
    }

    /// Rewrites answers after a refusal; those that wait for nothing any more are answered.
    pub(crate) fn refuse(
        &mut self,
        from: u64,
        reason: RefusedReason,
        committed: u64,
        synced: u64,
        out: &mut Vec<Output>,
    ) {
        for mut message in self.commit.take() {
            message.lose(committed, self.confirms, Lost::Refused { from, reason });
            self.hold(message, committed, synced, out);
        }
    }

    /// Answers everything: what is not known to be committed (and synced, where asked) is unknown,
    /// a bad answer that rested on it becomes `refusal`.
    pub(crate) fn abandon(
        &mut self,
        refusal: &Refusal,
        committed: u64,
        synced: u64,
        out: &mut Vec<Output>,
    ) {
        let messages = self.commit.take().chain(self.sync.take());
        let messages = messages.chain(std::mem::take(&mut self.confirm).into_values());
        for mut message in messages {
            message.lose(committed, self.confirms, Lost::Unknown(refusal));
            let token = message.token;
            let results = message.results.into_iter().map(|result| {
                let certain =
                    result.until <= committed && (!result.durable || result.until <= synced);
                match result.decided {
                    Decided::Proposed(_) | Decided::Replayed(_) if !certain => {
                        Err(Unknown::Uncertain.into())
                    }
                    decided => final_result(decided),
                }
            });
            out.push(Output::Answer { token, results: results.collect() });
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.commit.len() + self.sync.len() + self.confirm.len()
    }

    /// When the first of those came that wait for the lowest sequence: the oldest, or nearly.
    pub(crate) fn oldest_ns(&self) -> Option<u64> {
        let firsts = [self.commit.first(), self.sync.first(), self.confirm.values().next()];
        firsts.into_iter().flatten().map(|message| message.since_ns).min()
    }
}
