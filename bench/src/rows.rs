//! A CSV file in, its rows out, each as a type. Errors name the file and the line.

use anyhow::{Context, Result, anyhow};
use flate2::read::GzDecoder;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// The rows of a CSV file with a head, decompressed if its name ends in `.gz`; columns that the type does not name
/// are passed over.
///
/// # Errors
/// When the file cannot be opened; each row's own when it is not as the type wants it.
pub(crate) fn rows<R: DeserializeOwned>(path: &Path) -> Result<impl Iterator<Item = Result<R>> + use<R>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let reader: Box<dyn Read> = if path.extension().is_some_and(|extension| extension == "gz") {
        Box::new(GzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(BufReader::new(file))
    };
    let path = path.to_owned();
    let rows = csv::ReaderBuilder::new().from_reader(reader).into_deserialize();
    Ok(rows.map(move |row: csv::Result<R>| {
        row.map_err(|error| {
            let line = error.position().map_or(0, csv::Position::line);
            anyhow!("{}:{line}: {error}", path.display())
        })
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;
    use serde::Deserialize;
    use std::fs;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Fault {
        start: f64,
        service: String,
    }

    #[test]
    fn a_row_that_is_wrong_is_named_by_its_line_and_the_others_come() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("faults.csv");
        fs::write(&path, "start,end,service\n1.5,2,a\nsoon,3,b\n4,5,c\n").unwrap();
        let read: Vec<Result<Fault>> = rows(&path).unwrap().collect();
        let fault = |start, service: &str| Fault { start, service: service.to_owned() };
        assert_eq!(
            (read[0].as_ref().unwrap(), read[2].as_ref().unwrap()),
            (&fault(1.5, "a"), &fault(4.0, "c"))
        );
        let why = read[1].as_ref().unwrap_err().to_string();
        assert!(why.starts_with(&format!("{}:3: ", path.display())), "{why}");
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let why = rows::<Fault>(Path::new("/nowhere/faults.csv")).err().unwrap().to_string();
        assert!(why.contains("/nowhere/faults.csv"), "{why}");
    }
}
