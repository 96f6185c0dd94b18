//! Protobuf messages of a topology: a `.proto` file comes in and is compiled here, without protoc; what it
//! says of a method, and encoded messages of the method's types, go out. `sample` builds the messages,
//! `words` has what stands in them.

mod kind;
mod parcel;
mod sample;
mod words;

pub use kind::MethodKind;
pub use parcel::Parcel;

use std::path::Path;

use prost_reflect::{DescriptorPool, MethodDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

use crate::random::Random;

/// Message files that are part of the program, for the shipped topologies.
const SHIPPED: [(&str, &str); 1] = [("boutique.proto", include_str!("../../topologies/boutique.proto"))];

/// Different messages of one type: enough that sizes and values vary, few enough that specs stay small.
const SAMPLES: u64 = 4;
/// Of larger messages there is one: four would make a spec of many megabytes.
const LARGE_BYTES: u32 = 64 << 10;

/// The services and messages that a `.proto` file and its imports declare.
#[derive(Clone, Debug)]
pub struct Schema {
    file: String,
    pool: DescriptorPool,
}

impl Schema {
    /// Compiles a file: one on disk, with imports searched in its folder, or a shipped one.
    pub fn compile(path: &Path) -> Result<Self, String> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let mut resolver = ChainFileResolver::new();
        if path.is_file() {
            resolver.add(IncludeFileResolver::new(path.parent().unwrap_or(Path::new("")).to_owned()));
        } else if !SHIPPED.iter().any(|(shipped, _)| *shipped == name) {
            return Err(format!(
                "{} is no file; a path is relative to the topology, and {} is shipped",
                path.display(),
                SHIPPED.map(|(shipped, _)| shipped).join(", ")
            ));
        }
        resolver.add(Shipped);
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        // The error's plain form leaves file and line out; the other one has them.
        compiler.open_file(&name).map_err(|error| format!("{error:?}"))?;
        Ok(Self { file: name, pool: compiler.descriptor_pool() })
    }

    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether the file declares a service, by its full name.
    pub fn declares(&self, grpc: &str) -> bool {
        self.pool.get_service_by_name(grpc).is_some()
    }

    /// Full names of the services that it declares.
    pub fn services(&self) -> Vec<String> {
        self.pool.services().map(|service| service.full_name().to_owned()).collect()
    }

    /// Names of a service's methods.
    pub fn methods(&self, grpc: &str) -> Vec<String> {
        let service = self.pool.get_service_by_name(grpc);
        service.iter().flat_map(|service| service.methods()).map(|method| method.name().to_owned()).collect()
    }

    /// The kind of a method.
    pub fn kind(&self, grpc: &str, method: &str) -> Option<MethodKind> {
        let found = self.method(grpc, method)?;
        Some(match (found.is_client_streaming(), found.is_server_streaming()) {
            (false, false) => MethodKind::Unary,
            (true, false) => MethodKind::ClientStream,
            (false, true) => MethodKind::ServerStream,
            (true, true) => MethodKind::BidiStream,
        })
    }

    /// Encoded requests and responses of a method, near the given sizes where the types can be so large
    /// or small. The same method has the same messages in every run.
    pub fn samples(&self, grpc: &str, method: &str, bytes: (u32, u32)) -> Option<(Messages, Messages)> {
        let found = self.method(grpc, method)?;
        let build = |message, bytes: u32, salt| {
            let count = if bytes > LARGE_BYTES { 1 } else { SAMPLES };
            let seed = |at| seed_of(found.full_name()) ^ salt ^ at;
            (0..count).map(|at| sample::build(&message, bytes, &mut Random::seeded(seed(at)))).collect()
        };
        Some((build(found.input(), bytes.0, 0), build(found.output(), bytes.1, 1 << 32)))
    }

    fn method(&self, grpc: &str, method: &str) -> Option<MethodDescriptor> {
        self.pool.get_service_by_name(grpc)?.methods().find(|found| found.name() == method)
    }
}

/// Whole encoded messages, without gRPC's prefix.
pub type Messages = Vec<Vec<u8>>;

/// FNV-1a: names far from each other have seeds far from each other, on every machine.
fn seed_of(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// Files that are part of the program.
struct Shipped;

impl FileResolver for Shipped {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            Some((name, text)) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use prost::Message;
    use prost_reflect::DynamicMessage;

    use super::*;

    const SHAPES: &str = r#"syntax = "proto3"; package t;
        import "google/protobuf/timestamp.proto";
        message Empty {}
        message Tree { string name = 1; repeated Tree children = 2; }
        message All {
            oneof one { string text = 1; int64 number = 2; }
            map<string, int32> stock = 3; bytes blob = 4; repeated double prices = 5;
            Mood mood = 6; google.protobuf.Timestamp placed = 7; optional bool gift = 8; sint32 zig = 9;
        }
        enum Mood { UNKNOWN = 0; GOOD = 1; }
        service S {
            rpc None(Empty) returns (Empty); rpc Grow(stream Tree) returns (Tree);
            rpc Both(stream All) returns (stream All); rpc Watch(All) returns (stream Empty);
        }"#;

    fn compiled(text: &str) -> Result<Schema, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shapes.proto");
        std::fs::write(&path, text).unwrap();
        Schema::compile(&path)
    }

    #[test]
    fn every_sample_is_valid_and_near_its_size() {
        let schema = compiled(SHAPES).unwrap();
        for (method, bytes) in [("Grow", 20), ("Grow", 100), ("Grow", 3_000), ("Both", 200), ("Both", 6_000)]
        {
            let found = schema.method("t.S", method).unwrap();
            let (requests, responses) = schema.samples("t.S", method, (bytes, bytes)).unwrap();
            assert_eq!((requests.len(), responses.len()), (4, 4));
            assert_ne!(requests, responses);
            for encoded in requests.iter().chain(&responses) {
                let decoded = DynamicMessage::decode(found.input(), encoded.as_slice()).unwrap();
                assert_eq!(&decoded.encode_to_vec(), encoded);
                assert_eq!(decoded.unknown_fields().count(), 0);
                let off = encoded.len().abs_diff(bytes as usize);
                assert!(off <= 4 + bytes as usize / 10, "{method} {bytes}: {} bytes", encoded.len());
            }
        }
        assert_eq!(schema.samples("t.S", "None", (8, 8)).unwrap().0, vec![Vec::<u8>::new(); 4]);
        assert_eq!(schema.samples("t.S", "Nope", (8, 8)), None);
        assert_eq!(schema.samples("t.S", "Grow", (80_000, 10)).unwrap().0.len(), 1);
    }

    #[test]
    fn the_same_method_has_the_same_messages() {
        let samples = || compiled(SHAPES).unwrap().samples("t.S", "Both", (300, 300));
        assert_eq!(samples(), samples());
    }

    #[test]
    fn kinds_come_from_the_file() {
        let schema = compiled(SHAPES).unwrap();
        let kinds = ["None", "Grow", "Both", "Watch", "Nope"].map(|method| schema.kind("t.S", method));
        let expected = [
            Some(MethodKind::Unary),
            Some(MethodKind::ClientStream),
            Some(MethodKind::BidiStream),
            Some(MethodKind::ServerStream),
            None,
        ];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn errors_have_file_line_and_reason() {
        for (text, reason) in [
            ("syntax = \"proto3\";\nmessage A { strin name = 1; }", "shapes.proto:2:13: "),
            ("syntax = \"proto3\";\nimport \"gone.proto\";", "gone.proto"),
            ("syntax = \"proto3\";\nmessage {", "shapes.proto:2:9: "),
        ] {
            let error = compiled(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let error = Schema::compile(Path::new("/nonexistent/gone.proto")).unwrap_err();
        assert!(error.contains("/nonexistent/gone.proto is no file"), "{error}");
    }
}
