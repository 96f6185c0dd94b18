//! One line of a scenario.

use bytes::Bytes;
use std::collections::HashMap;
use std::time::Duration;
use tonic::metadata::{AsciiMetadataKey, MetadataMap};

const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

#[derive(Clone, Default)]
pub struct Plan {
    pub line: String,
    fields: HashMap<String, String>,
}

impl Plan {
    pub fn parse(line: &str) -> Self {
        let fields = line
            .split(' ')
            .filter_map(|field| field.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self { line: line.to_owned(), fields }
    }

    /// What the server may know of the line: without what stands before `anon=1`.
    pub fn told(&self) -> &str {
        self.line.split_once(" anon=1 ").map_or(&self.line, |(_, told)| told)
    }

    pub fn text(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    pub fn number(&self, key: &str) -> u64 {
        self.text(key).parse().unwrap_or(0)
    }

    pub fn time(&self, key: &str) -> Option<Duration> {
        Some(self.number(key)).filter(|ms| *ms > 0).map(Duration::from_millis)
    }

    /// Reads `3x100,0,1`.
    pub fn sizes(&self, key: &str) -> Vec<usize> {
        let parts = self.text(key).split(',').filter(|part| !part.is_empty() && *part != "-");
        parts
            .flat_map(|part| {
                let (count, size) = part.split_once('x').unwrap_or(("1", part));
                vec![size.parse().unwrap_or(0); count.parse().unwrap_or(1)]
            })
            .collect()
    }

    pub fn metadata(&self, key: &str, into: &mut MetadataMap) {
        for (i, size) in self.sizes(key).into_iter().enumerate() {
            let name: AsciiMetadataKey = format!("x-meta-{i}").parse().expect("a metadata key");
            into.insert(name, "v".repeat(size).parse().expect("a metadata value"));
        }
    }
}

pub fn message(size: usize) -> Bytes {
    PING.iter().copied().cycle().take(size).collect()
}
