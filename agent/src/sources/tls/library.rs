//! Files that hold OpenSSL: a process's memory map flows in, the places of the functions that matter flow
//! out. Besides libssl and libcrypto that is any program that carries OpenSSL inside and exports it (Node).

use object::read::{ReadCache, ReadRef};
use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A function that is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// A call that reads plaintext; `counts`: the one that tells how much through its fourth argument.
    Read {
        /// See above.
        counts: bool,
    },
    /// A call that writes plaintext.
    Write {
        /// See [`Function::Read`].
        counts: bool,
    },
    /// A call that does neither, but writes records.
    Handshake,
    /// What writes the records of all of them.
    Record,
}

/// The functions by name.
const FUNCTIONS: [(&str, Function); 6] = [
    ("SSL_read", Function::Read { counts: false }),
    ("SSL_read_ex", Function::Read { counts: true }),
    ("SSL_write", Function::Write { counts: false }),
    ("SSL_write_ex", Function::Write { counts: true }),
    ("SSL_do_handshake", Function::Handshake),
    ("BIO_write", Function::Record),
];

/// A file with such functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// The file, as this process can open it.
    pub path: PathBuf,
    /// Its functions, and where in the file each begins.
    pub functions: Vec<(Function, u64)>,
}

/// A file that a process has mapped and that may be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    /// Device and inode.
    pub(super) file: (u64, u64),
    /// Where this process can open it.
    pub(super) path: PathBuf,
}

impl Library {
    /// Reads a file's symbols; none when it lacks the functions, or cannot be read.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let cache = ReadCache::new(File::open(path).ok()?);
        let functions = functions(&cache)?;
        let is = |wanted: fn(&Function) -> bool| functions.iter().any(|(function, _)| wanted(function));
        let writes = is(|function| matches!(function, Function::Write { .. }));
        let whole = writes && is(|function| *function == Function::Handshake);
        (whole || file_name(path).starts_with("libcrypto") && is(|function| *function == Function::Record))
            .then(|| Self { path: path.to_owned(), functions })
    }
}

fn functions<'a>(bytes: impl ReadRef<'a>) -> Option<Vec<(Function, u64)>> {
    let file = object::File::parse(bytes).ok()?;
    let mut places = BTreeMap::new();
    for symbol in file.dynamic_symbols().filter(object::ObjectSymbol::is_definition) {
        let wanted =
            symbol.name().ok().and_then(|name| FUNCTIONS.iter().position(|(known, _)| *known == name));
        if let Some(wanted) = wanted {
            places.insert(wanted, symbol.address());
        }
    }
    let found = places
        .into_iter()
        .filter_map(|(which, address)| {
            let segment = file.segments().find(|segment| {
                (segment.address()..segment.address().saturating_add(segment.size())).contains(&address)
            })?;
            let (_, function) = FUNCTIONS.get(which)?;
            Some((*function, address - segment.address() + segment.file_range().0))
        })
        .collect();
    Some(found)
}

/// The processes in a `/proc`.
pub(super) fn processes(proc: &Path) -> BTreeSet<u32> {
    let Ok(entries) = fs::read_dir(proc) else { return BTreeSet::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The files of a process that hold OpenSSL by their name, or may as its program.
pub(super) fn mapped(proc: &Path, process: u32) -> Vec<Mapped> {
    let folder = proc.join(process.to_string());
    let Ok(maps) = fs::read_to_string(folder.join("maps")) else { return Vec::new() };
    let root = folder.join("root");
    let mut found: Vec<Mapped> = Vec::new();
    for line in maps.lines() {
        let Some(path) = code_of(line).filter(|path| is_openssl(path)) else { continue };
        let path = root.join(path.trim_start_matches('/'));
        if !found.iter().any(|mapped| mapped.path == path) {
            found.extend(at(path));
        }
    }
    let crypto_alone = found.iter().all(|mapped| !file_name(&mapped.path).starts_with("libssl"));
    if crypto_alone {
        found.clear();
        found.extend(at(folder.join("exe")));
    }
    found
}

/// The libraries in a folder.
pub(super) fn in_folder(folder: &Path) -> Vec<Mapped> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let openssl = paths.filter(|path| is_openssl(&path.to_string_lossy()));
    openssl.filter_map(at).collect()
}

/// What is at a path. The memory map names devices and inodes too, but with overlay file systems others.
fn at(path: PathBuf) -> Option<Mapped> {
    let meta = fs::metadata(&path).ok()?;
    Some(Mapped { file: (meta.dev(), meta.ino()), path })
}

/// The path of a line of a memory map that holds code.
fn code_of(line: &str) -> Option<&str> {
    let mut fields = line.splitn(6, ' ');
    let access = fields.nth(1)?;
    let path = fields.nth(3)?.trim_start();
    (access.contains('x') && path.starts_with('/') && !path.ends_with(" (deleted)")).then_some(path)
}

fn is_openssl(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    (name.starts_with("libssl") || name.starts_with("libcrypto")) && name.contains(".so")
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_with_a_file_counts() {
        let code = "7f1-7f2 r-xp 00001000 fe:00 1234                       /usr/lib/libssl.so.3";
        assert_eq!(code_of(code), Some("/usr/lib/libssl.so.3"));
        for other in [
            "7f1-7f2 r--p 00001000 fe:00 1234 /usr/lib/libssl.so.3",
            "7f1-7f2 r-xp 00001000 fe:00 1234 /usr/lib/libssl.so.3 (deleted)",
            "7f1-7f2 r-xp 00000000 00:00 0 [vdso]",
            "7f1-7f2 r-xp 00000000 00:00 0 ",
            "",
        ] {
            assert_eq!(code_of(other), None, "{other}");
        }
    }

    #[test]
    fn libraries_by_name() {
        for (path, expected) in [
            ("/usr/lib/libssl.so.3", true),
            ("/venv/x.libs/libssl-81ffa89e.so.3", true),
            ("/usr/lib/libcrypto.so.1.1", true),
            ("/usr/lib/libssl3.txt", false),
            ("/usr/bin/openssl", false),
        ] {
            assert_eq!(is_openssl(path), expected, "{path}");
        }
    }
}
