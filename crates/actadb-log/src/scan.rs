//! Reading frames back, and telling a good one from a bad one.

use std::io;
use std::sync::Arc;

use actadb_disk::disk::DiskFile;
use bytes::Bytes;

use crate::format::{
    BatchHead, FRAME_ALIGN, FRAME_HEADER_BYTES, FrameHeader, FrameRead, SEGMENT_HEADER_BYTES,
    frame_bytes,
};

const CHUNK_BYTES: usize = 1 << 20;

/// The end of a chain: what the next frame must continue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tip {
    /// Index of the last entry, 0 before the first.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Header checksum of its frame.
    pub checksum: u32,
}

/// A good frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its header.
    pub header: FrameHeader,
    /// Where it begins in its segment.
    pub offset: u64,
    /// Its body.
    pub body: Bytes,
}

impl Frame {
    /// Where the next frame begins.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + frame_bytes(u64::from(self.header.body_bytes))
    }
}

/// What stands at a place of a segment.
#[derive(Clone, Debug)]
pub enum Found {
    /// The next frame of the chain.
    Frame(Frame),
    /// Zeros up to the end of the file.
    End,
    /// Something else; the words say what.
    Bad(&'static str),
    /// A frame of a version this program does not know.
    Newer(u16),
}

/// Reads the frames of one segment in order.
#[derive(Debug)]
pub struct Scanner {
    file: Arc<dyn DiskFile>,
    seed: u32,
    length: u64,
    offset: u64,
    tip: Tip,
    chunk: Vec<u8>,
    chunk_offset: u64,
}

impl Scanner {
    /// Starts behind the segment's header; `tip` is the frame before the first one here.
    ///
    /// # Errors
    /// What the device says.
    pub fn new(file: Arc<dyn DiskFile>, seed: u32, tip: Tip) -> io::Result<Self> {
        let length = file.len()?;
        let offset = SEGMENT_HEADER_BYTES;
        Ok(Self { file, seed, length, offset, tip, chunk: Vec::new(), chunk_offset: 0 })
    }

    /// Starts at a frame in the middle, behind `tip`.
    #[must_use]
    pub fn resume(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// Where the next frame would begin.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Length of the file when it was opened.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The last good frame.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// The next frame; stays where it is when there is none.
    ///
    /// # Errors
    /// What the device says.
    pub fn step(&mut self) -> io::Result<Found> {
        let seed = self.seed;
        let head = self.bytes_at(self.offset, FRAME_HEADER_BYTES)?;
        if let FrameRead::Newer(version) = FrameHeader::decode(seed, head) {
            return Ok(Found::Newer(version));
        }
        let found = self.frame_at(self.offset)?;
        let Some(frame) = found else {
            return Ok(if self.is_zero_from(self.offset)? {
                Found::End
            } else {
                Found::Bad("not a frame")
            });
        };
        let (header, tip) = (&frame.header, self.tip);
        if Some(header.index) != tip.index.checked_add(1) || header.term < tip.term {
            return Ok(Found::Bad("a frame out of order"));
        }
        if header.previous_checksum != tip.checksum {
            return Ok(Found::Bad("a frame of another chain"));
        }
        self.offset = frame.end();
        self.tip = Tip { index: header.index, term: header.term, checksum: header.checksum };
        Ok(Found::Frame(frame))
    }

    /// Goes over what is bad to the next good frame of a later entry, whatever chain it is of, and
    /// goes on from there as if all before it had been read. Answers whether there is one; if
    /// not, it stays where it is.
    ///
    /// # Errors
    /// What the device says.
    pub fn skip_bad(&mut self) -> io::Result<bool> {
        let mut at = self.offset;
        while at + FRAME_HEADER_BYTES as u64 <= self.length {
            match self.frame_at(at)? {
                Some(Frame { header, .. }) if header.index > self.tip.index => {
                    self.offset = at;
                    let checksum = header.previous_checksum;
                    self.tip = Tip { index: header.index - 1, term: header.term, checksum };
                    return Ok(true);
                }
                Some(frame) => at = frame.end(),
                None => at += FRAME_ALIGN,
            }
        }
        Ok(false)
    }

    /// The frame at hand, when its header is good and continues the chain, and only its body is
    /// bad. Parts of the body may be whole; nothing vouches for it.
    ///
    /// # Errors
    /// What the device says.
    pub fn rotten(&mut self) -> io::Result<Option<Frame>> {
        let (seed, tip, offset) = (self.seed, self.tip, self.offset);
        let head = self.bytes_at(offset, FRAME_HEADER_BYTES)?;
        let FrameRead::Good(header) = FrameHeader::decode(seed, head) else { return Ok(None) };
        if header.index != tip.index + 1 || header.previous_checksum != tip.checksum {
            return Ok(None);
        }
        let body_offset = offset + FRAME_HEADER_BYTES as u64;
        let body = self.bytes_at(body_offset, header.body_bytes as usize)?;
        let body = Bytes::copy_from_slice(body);
        Ok(Some(Frame { header, offset, body }))
    }

    /// The highest index that any frame behind `offset` proves durable, whatever chain it is of:
    /// the evidence against calling a bad frame a torn tail. Entries up to `bulk_through` prove
    /// nothing.
    ///
    /// # Errors
    /// What the device says.
    pub fn durable_behind(&mut self, offset: u64, bulk_through: u64) -> io::Result<u64> {
        let mut highest = 0;
        let mut at = offset.next_multiple_of(FRAME_ALIGN).max(SEGMENT_HEADER_BYTES);
        while at + FRAME_HEADER_BYTES as u64 <= self.length {
            match self.frame_at(at)? {
                Some(frame) => {
                    if frame.header.index > bulk_through
                        && let Some(head) = BatchHead::decode(frame.header.kind, &frame.body)
                    {
                        highest = highest.max(head.durable);
                    }
                    at = frame.end();
                }
                None => at += FRAME_ALIGN,
            }
        }
        Ok(highest)
    }

    /// Where the last byte that is not zero ends, at least `from`.
    ///
    /// # Errors
    /// What the device says.
    pub fn written_end(&mut self, from: u64) -> io::Result<u64> {
        let mut end = from;
        let mut at = from;
        while at < self.length {
            let bytes = self.bytes_at(at, CHUNK_BYTES)?;
            if bytes.is_empty() {
                break;
            }
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                end = at + last as u64 + 1;
            }
            at += bytes.len() as u64;
        }
        Ok(end)
    }

    fn is_zero_from(&mut self, from: u64) -> io::Result<bool> {
        let mut at = from;
        while at < self.length {
            let bytes = self.bytes_at(at, CHUNK_BYTES)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
        }
        Ok(true)
    }

    /// A frame whose checksums hold, in any order or chain.
    fn frame_at(&mut self, offset: u64) -> io::Result<Option<Frame>> {
        let (seed, length) = (self.seed, self.length);
        let head = self.bytes_at(offset, FRAME_HEADER_BYTES)?;
        let FrameRead::Good(header) = FrameHeader::decode(seed, head) else { return Ok(None) };
        let body_offset = offset + FRAME_HEADER_BYTES as u64;
        let body_bytes = header.body_bytes as usize;
        if offset + frame_bytes(header.body_bytes.into()) > length {
            return Ok(None);
        }
        let body = self.bytes_at(body_offset, body_bytes)?;
        if !header.matches(seed, body) {
            return Ok(None);
        }
        let body = Bytes::copy_from_slice(body);
        Ok(Some(Frame { header, offset, body }))
    }

    /// Up to `wanted` bytes at `offset`, fewer at the end of the file.
    fn bytes_at(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        let left = self.length.saturating_sub(offset) as usize;
        let wanted = wanted.min(left);
        let inside = offset >= self.chunk_offset
            && offset + wanted as u64 <= self.chunk_offset + self.chunk.len() as u64;
        if !inside {
            let size = wanted.max(CHUNK_BYTES).min(left);
            self.chunk.resize(size, 0);
            self.chunk_offset = offset;
            let n = self.file.read_full_at(&mut self.chunk, offset)?;
            self.chunk.truncate(n);
        }
        let start = (offset - self.chunk_offset) as usize;
        let end = (start + wanted).min(self.chunk.len());
        Ok(&self.chunk[start..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actadb_disk::disk::Disk;
    use actadb_disk::sim::SimDisk;
    use actadb_model::entry::EntryKind;
    use std::path::Path;

    #[test]
    fn nothing_follows_the_last_index_there_can_be() {
        let file = SimDisk::new().create(Path::new("/1.segment")).expect("a new file");
        let mut tip = Tip { index: u64::MAX - 1, ..Tip::default() };
        for (offset, index) in [(SEGMENT_HEADER_BYTES, u64::MAX), (SEGMENT_HEADER_BYTES + 40, 0)] {
            let header = FrameHeader::new(7, EntryKind::Noop, 0, index, tip.checksum, b"");
            file.write_all_at(&header.encode(), offset).expect("no faults");
            tip.checksum = header.checksum;
        }
        let before = Tip { index: u64::MAX - 1, ..Tip::default() };
        let mut scanner = Scanner::new(file, 7, before).expect("no faults");
        assert!(matches!(scanner.step().expect("no faults"), Found::Frame(_)));
        assert!(matches!(scanner.step().expect("no faults"), Found::Bad(_)));
    }
}
