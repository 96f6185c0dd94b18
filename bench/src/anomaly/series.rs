//! Anomaly data in, signals by service out: one `NAME.csv.gz` (or `NAME.csv`) a service, with the columns
//! `step`, `part` (`train` or `test`), perhaps `label`, and one column a signal. What the signals mean is not
//! said, so their roles are unknown too. Errors name the file and the line.

use anyhow::{Context, Result, bail};
use csv::StringRecord;
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// One service's signals over its steps.
#[derive(Debug)]
pub(super) struct Series {
    /// The file's name without its endings.
    pub(super) service: String,
    /// The first row's step; the others follow without a gap.
    pub(super) first: u64,
    /// Rows of the train part, which comes first.
    pub(super) train: usize,
    /// `[signal][row]`, NaN where nothing was measured.
    pub(super) signals: Vec<Vec<f64>>,
    /// By row: whether it is known to be anomalous. Used to measure, never to score.
    pub(super) labels: Vec<Option<bool>>,
}

impl Series {
    /// Rows.
    pub(super) fn steps(&self) -> usize {
        self.labels.len()
    }
}

/// Every service of a folder, by name.
pub(super) fn read_folder(dir: &Path) -> Result<Vec<Series>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .with_context(|| dir.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()
        .with_context(|| dir.display().to_string())?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("service") && (name.ends_with(".csv.gz") || name.ends_with(".csv"))
    });
    paths.sort();
    let series = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let [first, second, ..] = series.as_slice() else {
        bail!(
            "{}: {} service files (service-NN.csv.gz); two at least are needed, since a service is scored by \
             a model of others",
            dir.display(),
            series.len()
        );
    };
    if second.service == first.service {
        bail!("{}: {} is there twice", dir.display(), first.service);
    }
    for (path, other) in paths.iter().zip(&series) {
        if other.signals.len() != first.signals.len() {
            bail!(
                "{}:1: {} signals, but {} has {}; a shared model needs the same ones",
                path.display(),
                other.signals.len(),
                first.service,
                first.signals.len()
            );
        }
    }
    Ok(series)
}

fn read(path: &Path) -> Result<Series> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let file = BufReader::new(file);
    let reader: Box<dyn Read> = if packed { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let service = name.trim_end_matches(".gz").trim_end_matches(".csv").to_owned();
    parse(reader, service, &path.display().to_string())
}

/// `place` is what errors call the file.
pub(super) fn parse(reader: impl Read, service: String, place: &str) -> Result<Series> {
    let mut rows = csv::Reader::from_reader(reader);
    let header = rows.headers().with_context(|| format!("{place}:1"))?.clone();
    let column = |name: &str| header.iter().position(|column| column == name);
    let (Some(step), Some(part)) = (column("step"), column("part")) else {
        bail!("{place}:1: the columns `step` and `part` must be there; found {:?}", &header);
    };
    let label = column("label");
    let columns: Vec<usize> =
        (0..header.len()).filter(|at| ![Some(step), Some(part), label].contains(&Some(*at))).collect();
    if columns.is_empty() {
        bail!("{place}:1: no signals beside step, part and label");
    }
    let mut series =
        Series { service, first: 0, train: 0, signals: vec![Vec::new(); columns.len()], labels: Vec::new() };
    let mut row = StringRecord::new();
    loop {
        // A broken row does not know its line yet; it is the one behind the last.
        let next = rows.position().line();
        if !rows.read_record(&mut row).with_context(|| format!("{place}:{next}"))? {
            break;
        }
        let line = row.position().map_or(next, csv::Position::line);
        let field = |at: usize| row.get(at).unwrap_or_default().trim();
        add(&mut series, &columns, (field(step), field(part), label.map_or("", field)), &row)
            .with_context(|| format!("{place}:{line}"))?;
    }
    if series.train == 0 || series.train == series.steps() {
        bail!("{place}: both a train part and a test part behind it are needed");
    }
    Ok(series)
}

fn add(
    series: &mut Series,
    columns: &[usize],
    (step, part, label): (&str, &str, &str),
    row: &StringRecord,
) -> Result<()> {
    let step: u64 = step.parse().with_context(|| format!("step `{step}` is no whole number"))?;
    let rows = series.steps();
    if rows == 0 {
        series.first = step;
    }
    let expected = series.first + rows as u64;
    if step != expected {
        bail!("step {step} where {expected} should be: steps follow each other without a gap");
    }
    match part {
        "train" if series.train == rows => series.train += 1,
        "train" => bail!("a train row behind test rows"),
        "test" => {}
        other => bail!("part `{other}` is neither train nor test"),
    }
    series.labels.push(match label {
        "" => None,
        "0" => Some(false),
        "1" => Some(true),
        other => bail!("label `{other}` is neither 0, 1 nor empty"),
    });
    for (signal, column) in series.signals.iter_mut().zip(columns) {
        let text = row.get(*column).unwrap_or_default().trim();
        let value = match text {
            "" => f64::NAN,
            text => text.parse().with_context(|| format!("`{text}` is no number"))?,
        };
        // What is infinite was not measured either.
        signal.push(if f64::is_finite(value) { value } else { f64::NAN });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", parse(text.as_bytes(), "s".into(), "f.csv").unwrap_err())
    }

    #[test]
    fn rows_become_signals() {
        let text = "step,part,label,a,b\n7,train,,1,\n8,test,1,2,nan\n";
        let series = parse(text.as_bytes(), "s".into(), "f.csv").unwrap();
        assert_eq!((series.first, series.train, series.steps()), (7, 1, 2));
        assert_eq!(series.signals[0], [1.0, 2.0]);
        assert!(series.signals[1].iter().all(|value| value.is_nan()));
        assert_eq!(series.labels, [None, Some(true)]);
    }

    #[test]
    fn errors_name_the_line() {
        assert!(error("step,part,label,a\n0,train,,x\n").starts_with("f.csv:2: `x` is no number"));
        assert!(error("step,part,a\n0,train,1\n2,test,1\n").starts_with("f.csv:3: step 2 where 1 should be"));
        assert!(error("step,part,a\n0,train,1\n1,later,1\n").contains("f.csv:3: part `later`"));
        assert!(error("step,part,a\n0,train,1\n1,test\n").starts_with("f.csv:3: "));
        assert!(error("time,part,a\n").starts_with("f.csv:1: the columns `step` and `part`"));
        assert!(error("step,part,a\n0,train,1\n").contains("both a train part and a test part"));
    }
}
