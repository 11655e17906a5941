//! What the committed state of a node says about the keys of a decision.

use std::collections::HashMap;
use std::sync::Arc;

use actadb_model::event::Event;
use actadb_model::ids::PartitionId;
use actadb_model::keys::{Facts, Keys, StreamFact};
use actadb_model::limits::PERMIT_BYTES_DEFAULT;
use actadb_model::names::StreamId;
use actadb_model::numbered::Numbered;
use uuid::Uuid;

use crate::error::ReadError;
use crate::reader::Reader;

/// Most bytes of transactions that one question about event ids may load. A retry loads what it
/// carries itself, and a message carries less than the permits of a bucket; more than this can only
/// be ids picked from many large transactions.
const OWNERS_MAX_BYTES: usize = 2 * PERMIT_BYTES_DEFAULT as usize;

/// Answers `keys` for a partition of `own`; a stream that the partition does not have is asked of
/// `others`, the node's other buckets, too.
///
/// # Errors
/// See [`ReadError`].
pub fn facts(
    own: &Reader,
    others: &[Reader],
    partition: PartitionId,
    keys: &Keys,
) -> Result<Facts, ReadError> {
    let mut answer = Facts::default();
    for stream in &keys.streams {
        answer.streams.push((stream.clone(), stream_fact(own, others, partition, stream)?));
    }
    // A retry of a large transaction asks for all of its ids: it is read once, and shared.
    let mut owners: HashMap<Uuid, Arc<Numbered>> = HashMap::new();
    let mut loaded_bytes = 0;
    for id in &keys.event_ids {
        if !owners.contains_key(id)
            && let Some(transaction) = own.transaction_of(*id)?
        {
            loaded_bytes += transaction.events.iter().map(Event::size_bytes).sum::<usize>();
            if loaded_bytes > OWNERS_MAX_BYTES {
                return Err(ReadError::TooManyOwners { limit_bytes: OWNERS_MAX_BYTES });
            }
            let numbered = transaction.to_numbered().map(Arc::new);
            let numbered = numbered.ok_or_else(|| own.disagree(format!("event id {id}")))?;
            let ids = numbered.events.iter().map(|event| event.id);
            owners.extend(ids.map(|id| (id, numbered.clone())));
        }
        answer.event_ids.push((*id, owners.get(id).cloned()));
    }
    Ok(answer)
}

fn stream_fact(
    own: &Reader,
    others: &[Reader],
    partition: PartitionId,
    stream: &StreamId,
) -> Result<StreamFact, ReadError> {
    let heads = own.stream_heads(stream.as_str())?;
    if let Some((_, head)) = heads.iter().find(|(p, _)| *p == partition) {
        return Ok(StreamFact::Head { version: head.version, partition_key: head.partition_key });
    }
    let mut elsewhere = heads.into_iter().next();
    for other in others {
        if elsewhere.is_some() {
            break;
        }
        elsewhere = other.stream_heads(stream.as_str())?.into_iter().next();
    }
    Ok(match elsewhere {
        Some((partition, head)) => {
            StreamFact::Elsewhere { partition, partition_key: head.partition_key }
        }
        None => StreamFact::Absent,
    })
}
