//! A recording flows in; the same reports as live flow out, without a kernel and without privileges.

use crate::cli::ReplayFlags;
use crate::config::ModelFiles;
use crate::run::inference;
use crate::top;
use anyhow::Context;
use faultline_core::pipeline::Pipeline;
use faultline_core::recording::{Header, Item, Reader};
use faultline_core::report::Report;
use faultline_core::score::Model;
use faultline_core::units::Timestamp;
use std::fs::File;
use std::io::{ErrorKind, Write, stdout};

/// Replays a file and prints what the flags ask for.
///
/// # Errors
/// When the file is no recording, is cut or damaged, or needs a model that is not here. What was read
/// before a cut is printed all the same.
pub fn print(flags: &ReplayFlags) -> anyhow::Result<()> {
    let name = flags.file.display().to_string();
    let file = File::open(&flags.file).with_context(|| format!("cannot open {name}"))?;
    let mut last = None;
    let mut out = stdout().lock();
    let replayed = reports(
        file,
        &ModelFiles { model: flags.model.clone(), runtime: flags.onnx_runtime.clone() },
        |report| {
            if flags.all {
                serde_json::to_writer(&mut out, &report)?;
                out.write_all(b"\n")?;
            }
            last = Some(report);
            Ok(())
        },
    );
    // A reader that closed its end early (`| head`) has what it wants.
    if replayed.as_ref().is_err_and(is_broken_pipe) {
        return Ok(());
    }
    match last {
        Some(report) if flags.json => writeln!(out, "{}", serde_json::to_string(&report)?),
        Some(report) if !flags.all => write!(out, "{}", top::plain_text(&report)),
        Some(_) => Ok(()),
        None => {
            replayed.with_context(|| name.clone())?;
            anyhow::bail!("{name} holds no closed step: record for longer than one step");
        }
    }
    .or_else(|error| if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })?;
    replayed.with_context(|| name)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref::<serde_json::Error>() {
        Some(json) => json.io_error_kind(),
        None => cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind),
    };
    error.chain().any(|cause| kind(cause) == Some(ErrorKind::BrokenPipe))
}

/// Runs a recording through a pipeline of its settings and gives every report to `each`.
///
/// # Errors
/// When the recording cannot be read to its end, or `each` fails.
pub fn reports(
    source: impl std::io::Read,
    files: &ModelFiles,
    mut each: impl FnMut(Report) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let reader = Reader::open(source)?;
    let header = reader.header();
    let mut pipeline = Pipeline::new(header.settings.clone(), model_of(header, files)?);
    for item in reader {
        match item? {
            Item::Event(event) => pipeline.handle(event, |_| {}),
            Item::Tick(now) => {
                if let Some(report) = pipeline.tick(now, |_| {}) {
                    each(report)?;
                }
            }
        }
    }
    Ok(())
}

/// The model that the live run had: another would score otherwise, so it is not used.
fn model_of(header: &Header, files: &ModelFiles) -> anyhow::Result<Option<Box<dyn Model>>> {
    let Some(digest) = header.model_digest else {
        return Ok(None);
    };
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let model = inference::model(files, Timestamp::default()).map_err(|missing| {
        anyhow::anyhow!("it was recorded with the model {digest}, and here is none: {}", missing.reason)
    })?;
    if model.digest() != digest {
        anyhow::bail!(
            "it was recorded with the model {digest}, here is {}; name that one with --model",
            model.digest()
        );
    }
    Ok(Some(model))
}
