//! Reading the sealed segments of a running bucket again, in small steps: rot is found while a
//! backup may still have the bytes. What is verified is what a check verifies, but for the
//! versions of all streams, which would take memory for each; the places of versions are compared.

use std::sync::Arc;

use actadb_index::error::IndexError;
use actadb_index::format::BLOCK_BYTES;
use actadb_index::sealed::SealedIndex;
use actadb_log::error::{Damage, LogError};
use actadb_log::scan::Tip;

use crate::reader::Reader;
use crate::segments::{Segment, SegmentIndex, Shared};
use crate::verify::{Findings, IndexCheck, IndexStep, Verifier};
use crate::walk::{SegmentStep, SegmentWalk, entry_of};

/// What one step came to.
#[derive(Debug, Default)]
pub struct ScrubStep {
    /// Bytes read.
    pub bytes: u64,
    /// What is not right.
    pub found: Vec<Damage>,
    /// Whether something was not looked at: it may be as damaged as an earlier round found it.
    pub passed_over: bool,
    /// Whether all sealed segments have been read.
    pub ended: bool,
}

/// One round over the sealed segments of a bucket. Blocking.
#[derive(Debug)]
pub struct Scrub {
    shared: Arc<Shared>,
    verifier: Verifier,
    /// The last frame before the segment at hand; `None` when that is not known.
    tip: Option<Tip>,
    /// The segment at hand.
    number: u64,
    part: Part,
}

/// What is being read.
#[derive(Debug)]
enum Part {
    Nothing,
    Frames(Arc<Segment>, SegmentWalk, /* sound so far */ bool),
    Index(Arc<Segment>, IndexCheck),
}

impl Scrub {
    /// Begins a round.
    #[must_use]
    pub fn new(reader: &Reader) -> Self {
        let shared = reader.shared();
        let verifier = Verifier::new(shared.settings.identity, shared.partitioning, false);
        Self { shared, verifier, tip: Some(Tip::default()), number: 1, part: Part::Nothing }
    }

    /// Reads on for about `bytes`: at least one frame or block, at most one frame more. What
    /// cannot be read is damage, too; only a lack of file handles is not: then the segment is
    /// passed over in this round. A step ends with the first thing that is wrong: the search for
    /// what is good behind it may take the rest of a segment.
    pub fn step(&mut self, bytes: u64) -> ScrubStep {
        let mut step = ScrubStep::default();
        while step.bytes < bytes && !step.ended && step.found.is_empty() && !step.passed_over {
            let outcome = match std::mem::replace(&mut self.part, Part::Nothing) {
                Part::Nothing => self.begin(&mut step),
                Part::Frames(segment, walk, sound) => self.frames(segment, walk, sound, &mut step),
                Part::Index(segment, check) => self.index(segment, check, &mut step),
            };
            match outcome {
                Ok(part) => self.part = part,
                Err(failed) => {
                    step.found.extend(failed);
                    step.passed_over = true;
                    // Trying costs, too: errors alone must not make a loop without a pause.
                    step.bytes += BLOCK_BYTES as u64;
                    self.lose();
                }
            }
        }
        step
    }

    /// The segment at hand tells nothing more: what follows is taken at its word.
    fn lose(&mut self) {
        self.tip = None;
        self.verifier.skip();
        self.number += 1;
    }

    fn begin(&mut self, step: &mut ScrubStep) -> Result<Part, Option<Damage>> {
        let list = self.shared.list.load();
        let segment = list.iter().find(|segment| segment.number() == self.number).cloned();
        let Some(segment) = segment.filter(|segment| sealed(segment).is_some()) else {
            step.ended = true;
            return Ok(Part::Nothing);
        };
        let opened = SegmentWalk::open(&self.shared.settings, self.number, self.tip);
        let (walk, damage) = opened.map_err(|error| of_log(&segment, 0, error))?;
        let sound = damage.is_none();
        if !sound {
            self.verifier.skip();
        }
        step.found.extend(damage);
        match walk {
            Some(walk) if !sound => {
                // What was searched for its first good frame.
                step.bytes += walk.offset();
                Ok(Part::Frames(segment, walk, sound))
            }
            Some(walk) => Ok(Part::Frames(segment, walk, sound)),
            None => Err(None),
        }
    }

    fn frames(
        &mut self,
        segment: Arc<Segment>,
        mut walk: SegmentWalk,
        mut sound: bool,
        step: &mut ScrubStep,
    ) -> Result<Part, Option<Damage>> {
        let before = walk.offset();
        let next = walk.step().map_err(|error| of_log(&segment, before, error))?;
        let found = step.found.len();
        match next {
            SegmentStep::Frame(frame) => {
                let (entry, body) = entry_of(self.number, frame);
                let mut findings = Findings::default();
                self.verifier.frame(segment.path(), &entry, body, &mut findings);
                let Findings { damage, disagreements, newer } = findings;
                step.found.extend(damage.into_iter().chain(disagreements).chain(newer));
            }
            SegmentStep::Bad(index, what) => {
                let what = format!("{what}, entry {index} expected");
                step.found.push(Damage::new(segment.path(), before, what));
                self.verifier.skip();
                if !walk.skip_bad().map_err(|error| of_log(&segment, before, error))? {
                    step.bytes += walk.length().saturating_sub(before);
                    return Err(None);
                }
            }
            SegmentStep::End => {
                self.tip = Some(walk.tip());
                let expected = self.verifier.segment_end(walk.segment());
                if sound {
                    return Ok(Part::Index(segment, IndexCheck::new(expected)));
                }
                // Nothing tells what its index must say.
                step.passed_over = true;
                self.number += 1;
                return Ok(Part::Nothing);
            }
        }
        sound &= step.found.len() == found;
        step.bytes += walk.offset() - before;
        Ok(Part::Frames(segment, walk, sound))
    }

    fn index(
        &mut self,
        segment: Arc<Segment>,
        mut check: IndexCheck,
        step: &mut ScrubStep,
    ) -> Result<Part, Option<Damage>> {
        let Some(index) = sealed(&segment) else { return Err(None) };
        step.bytes += BLOCK_BYTES as u64;
        let done = match check.step(index) {
            Ok(IndexStep::More) => return Ok(Part::Index(segment, check)),
            Ok(IndexStep::Done(done)) => {
                // It ends at the first damage.
                step.passed_over |= done.is_some();
                done
            }
            Err(error) => {
                step.passed_over = true;
                let no_handles = |e: &IndexError| match e {
                    IndexError::Io { source, .. } => actadb_disk::disk::is_no_room(source),
                    _ => false,
                };
                (!no_handles(&error)).then(|| Damage::new(index.path(), 0, error.to_string()))
            }
        };
        // The segment itself is sound: what follows must continue it.
        step.found.extend(done);
        self.number += 1;
        Ok(Part::Nothing)
    }
}

fn sealed(segment: &Segment) -> Option<&SealedIndex> {
    match segment.index() {
        SegmentIndex::Sealed(index) => Some(index),
        SegmentIndex::Open(_) => None,
    }
}

fn of_log(segment: &Segment, offset: u64, error: LogError) -> Option<Damage> {
    match error {
        LogError::Damaged(damage) => Some(damage),
        error if error.is_no_room() => None,
        error => Some(Damage::new(segment.path(), offset, error.to_string())),
    }
}
