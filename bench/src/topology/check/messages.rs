//! The rules between a topology and its message file: each service and method is declared there, with the
//! same kind.

use std::path::Path;

use super::super::{Invalid, raw};
use super::Rules;
use crate::messages::Schema;

/// The compiled message file, if the topology names one and agrees with it.
pub(super) fn schema(rules: &Rules<'_>, raw: &raw::File) -> Result<Option<Schema>, Invalid> {
    let Some(proto) = &raw.proto else { return Ok(None) };
    rules.require(
        Path::new(proto).extension().is_some_and(|extension| extension == "proto"),
        "proto",
        format!("`{proto}` does not end in .proto; name a file of protobuf services"),
    )?;
    let folder = Path::new(rules.file).parent().unwrap_or(Path::new(""));
    let schema = Schema::compile(&folder.join(proto));
    let schema =
        schema.map_err(|reason| Invalid { file: rules.file.into(), place: "proto".into(), reason })?;
    for (name, service) in &raw.services.0 {
        service_agrees(rules, &schema, &format!("services.{name}"), service)?;
    }
    Ok(Some(schema))
}

fn service_agrees(
    rules: &Rules<'_>,
    schema: &Schema,
    place: &str,
    service: &raw::Service,
) -> Result<(), Invalid> {
    let (file, grpc) = (schema.file(), &service.grpc);
    rules.require(
        schema.declares(grpc),
        &format!("{place}.grpc"),
        format!("{file} declares no service `{grpc}`; it declares {}", schema.services().join(", ")),
    )?;
    for (name, method) in &service.methods.0 {
        let place = format!("{place}.methods.{name}");
        let Some(kind) = schema.kind(grpc, name) else {
            let known = schema.methods(grpc).join(", ");
            return rules.require(
                false,
                &place,
                format!("{file} declares no method `{name}` of `{grpc}`; it declares {known}"),
            );
        };
        rules.require(
            kind == method.kind,
            &format!("{place}.kind"),
            format!(
                "{file} declares `{name}` as {}, not {}; make the two agree",
                kind.name(),
                method.kind.name()
            ),
        )?;
    }
    Ok(())
}
