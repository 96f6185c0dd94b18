//! Reads header blocks (RFC 7541) from outside: blocks flow in, the few fields that calls need flow out.
//!
//! Why not the `h2` crate's decoder: it is a peer, so it starts with the connection and gives up at the first
//! doubt. This one may join late or lose blocks. It numbers table entries absolutely, so that an index to an
//! entry that was inserted before it looked has a name of its own (equal while the entry lives) instead of a
//! wrong value. An index counts back from the newest entry, hence what was inserted since is always right.

use super::names::{Names, Raw};
use crate::h2::hpack::fields::parse;
pub(crate) use fields::{Fields, Name, PathEntry};
use std::collections::VecDeque;

mod fields;
mod integer;
mod statics;
#[cfg(test)]
mod tests;

/// Table size before any update (RFC 7541 appendix C, RFC 9113 section 6.5.2), in bytes.
const DEFAULT_TABLE: u64 = 4096;

/// The largest table that is kept, in bytes. Browsers ask for 64 KiB, gRPC stacks for 4 KiB; of a larger table
/// the newest 64 KiB are known and the rest is unresolved.
const MAX_TABLE: u64 = 65_536;

/// What each entry costs beyond its name and value (RFC 7541 section 4.1).
const ENTRY_OVERHEAD: u64 = 32;

/// The most entries that an unresolved index may reach back before the agent looked: a table of 1 MiB of the
/// smallest entries. Anything older is not an index but a sign that the state is wrong.
const MAX_UNSEEN: u64 = 32_768;

/// The header block's state is lost: what is left of the block cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// One direction's header table and reader.
#[derive(Debug)]
pub(crate) struct Hpack {
    /// Newest first.
    entries: VecDeque<Entry>,
    /// Bytes of `entries` by the RFC's account.
    size: u64,
    /// Bytes of the values that are kept of them.
    texts: usize,
    /// The table's size as the encoder last declared it.
    limit: u64,
    /// Every block since the connection's start was read.
    whole: bool,
    /// Insertions since the start or the last loss.
    inserted: u64,
    /// How often the state was lost, so that entry numbers of different times differ.
    epoch: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    name: Name,
    field: fields::Field,
    name_length: u64,
    size: u64,
}

/// The fields and table updates of a block, one by one, up to where it breaks.
#[cfg(feature = "fuzz")]
pub(crate) fn split(mut block: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let start = block;
        let first = *block.first()?;
        let (prefix, strings) = match first {
            0x80.. => (7, 0),
            0x40..0x80 => (6, 1),
            0x20..0x40 => (5, 0),
            _ => (4, 1),
        };
        let index = integer::read(&mut block, prefix).ok()?;
        let strings = if strings == 1 && index == 0 { 2 } else { strings };
        for _ in 0..strings {
            integer::string(&mut block).ok()?;
        }
        start.get(..start.len() - block.len())
    })
}

impl Default for Hpack {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            texts: 0,
            limit: DEFAULT_TABLE,
            whole: false,
            inserted: 0,
            epoch: 0,
        }
    }
}

enum Found<'a> {
    Static(Name, &'static str, &'static str),
    Entry(&'a Entry),
    Unseen(u64),
}

impl Hpack {
    /// The connection starts here: the table is empty and nothing is unknown.
    pub(crate) fn start(&mut self) {
        *self = Self { whole: true, epoch: self.epoch, ..Self::default() };
    }

    /// Blocks were missed: nothing of the table is known any more.
    pub(crate) fn lose(&mut self) {
        self.entries = VecDeque::new();
        self.size = 0;
        self.texts = 0;
        self.whole = false;
        self.inserted = 0;
        self.epoch += 1;
    }

    /// Bytes that the table takes. A value that many tables share counts for each.
    pub(crate) fn held(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.texts
    }

    /// Reads one whole header block into `fields`. On `Broken` what was read before the break is right, and
    /// the caller says [`Hpack::lose`].
    pub(crate) fn read(
        &mut self,
        mut block: &[u8],
        names: &mut Names,
        fields: &mut Fields,
    ) -> Result<(), Broken> {
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer::read(&mut block, 7)?;
                self.indexed(index, names, fields)?;
            } else if first & 0xe0 == 0x20 {
                let limit = integer::read(&mut block, 5)?;
                self.resize(limit);
            } else {
                let insert = first & 0x40 != 0;
                let index = integer::read(&mut block, if insert { 6 } else { 4 })?;
                self.literal(index, insert, &mut block, names, fields)?;
            }
        }
        Ok(())
    }

    fn indexed(&self, index: u64, names: &mut Names, fields: &mut Fields) -> Result<(), Broken> {
        match self.find(index)? {
            Found::Static(name, _, value) => {
                let raw = Raw { bytes: value.as_bytes(), huffman: false };
                let (field, _) = parse(name, raw, names)?;
                fields.add(name, field);
            }
            Found::Entry(entry) => fields.add(entry.name, entry.field.clone()),
            Found::Unseen(number) => fields.add_unseen(number),
        }
        Ok(())
    }

    fn literal(
        &mut self,
        index: u64,
        insert: bool,
        block: &mut &[u8],
        names: &mut Names,
        fields: &mut Fields,
    ) -> Result<(), Broken> {
        let (name, name_length) = match index {
            0 => {
                let raw = integer::string(block)?;
                let text = names.decode(raw).ok_or(Broken)?;
                (Name::of(text), text.len() as u64)
            }
            _ => match self.find(index)? {
                Found::Static(name, text, _) => (name, text.len() as u64),
                Found::Entry(entry) => (entry.name, entry.name_length),
                Found::Unseen(_) => (Name::Unseen, 0),
            },
        };
        let raw = integer::string(block)?;
        if name == Name::Other && !insert {
            fields.add(name, fields::Field::Dropped);
            return Ok(());
        }
        let (field, length) = parse(name, raw, names)?;
        fields.add(name, field.clone());
        if insert {
            let size = name_length + length + ENTRY_OVERHEAD;
            self.insert(Entry { name, field, name_length, size });
        }
        Ok(())
    }

    fn find(&self, index: u64) -> Result<Found<'_>, Broken> {
        if let Some((name, text, value)) = statics::entry(index) {
            return Ok(Found::Static(name, text, value));
        }
        let back = index.checked_sub(statics::COUNT + 1).ok_or(Broken)?;
        if let Some(entry) = usize::try_from(back).ok().and_then(|back| self.entries.get(back)) {
            return Ok(Found::Entry(entry));
        }
        if self.whole || back > self.inserted + MAX_UNSEEN {
            return Err(Broken);
        }
        // 1 is the newest entry of those inserted before the agent looked. An entry that was seen but is
        // no longer kept (a table larger than ours) wraps to the top of the 32 bits.
        let number = (back + 1).wrapping_sub(self.inserted) & 0xffff_ffff;
        Ok(Found::Unseen(self.epoch << 32 | number))
    }

    fn resize(&mut self, limit: u64) {
        self.limit = limit;
        self.evict(0);
    }

    fn insert(&mut self, entry: Entry) {
        if entry.size > self.limit {
            // An entry larger than the table empties it and is not inserted (RFC 7541 section 4.4). If the
            // agent joined late, the limit may be larger than it knows: then the entry was inserted, and
            // numbers from before it no longer hold. Both are covered by forgetting what was before.
            self.entries.clear();
            self.size = 0;
            self.texts = 0;
            if !self.whole {
                self.inserted = 0;
                self.epoch += 1;
            }
            return;
        }
        self.evict(entry.size);
        self.size += entry.size;
        self.texts += entry.field.text_length();
        self.inserted += 1;
        self.entries.push_front(entry);
    }

    fn evict(&mut self, room: u64) {
        let keep = self.limit.min(MAX_TABLE).saturating_sub(room);
        while self.size > keep {
            match self.entries.pop_back() {
                Some(entry) => {
                    self.size = self.size.saturating_sub(entry.size);
                    self.texts = self.texts.saturating_sub(entry.field.text_length());
                }
                None => self.size = 0,
            }
        }
    }
}
