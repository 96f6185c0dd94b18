#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    digits
        .as_bytes()
        .chunks(2)
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
        .collect()
}

/// Reads blocks one after another; says for each what was read, and then the table's entries and size.
fn check(table: &mut Hpack, blocks: &[&str], expected: &Expect) {
    let mut names = Names::default();
    let mut said = String::new();
    for block in blocks {
        let mut fields = Fields::default();
        let read = table.read(&hex(block), &mut names, &mut fields);
        let mut words: Vec<String> = Vec::new();
        let mut word = |name: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("{name}={value}")));
        };
        word("method", fields.method.as_deref().map(Into::into));
        let entry = |n: u64| format!("{}:{}", n >> 32, n & 0xffff_ffff);
        word(
            "entry",
            fields.path_entry().map(|path| match path {
                PathEntry::Is(number) => entry(number),
                PathEntry::OneOf([one, other]) => format!("{}|{}", entry(one), entry(other)),
            }),
        );
        word("authority", fields.authority.as_deref().map(Into::into));
        word("host", fields.host.as_deref().map(Into::into));
        word("http", fields.http_status.map(|s| s.to_string()));
        word("grpc", fields.grpc.map(|s| s.to_string()));
        word("status", fields.grpc_status.map(|s| s.to_string()));
        word("timeout", fields.timeout.map(|t| t.0.to_string()));
        word("encoding", fields.encoding.as_deref().map(Into::into));
        word("attempts", fields.previous_attempts.map(|a| a.to_string()));
        word("unseen", (fields.unseen > 0).then(|| fields.unseen.to_string()));
        word("broken", read.is_err().then(String::new));
        said += &format!("{}; {} entries, {} bytes\n", words.join(" "), table.entries.len(), table.size);
    }
    expected.assert_eq(&said);
}

fn fresh() -> Hpack {
    let mut table = Hpack::default();
    table.start();
    table
}

/// RFC 7541 appendix C.2: one field each, with and without indexing.
#[test]
fn representations() {
    check(
        &mut fresh(),
        &[
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "040c 2f73 616d 706c 652f 7061 7468",
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            "82",
        ],
        &expect![[r#"
            ; 1 entries, 55 bytes
            method=sample/path; 1 entries, 55 bytes
            ; 1 entries, 55 bytes
            ; 1 entries, 55 bytes
        "#]],
    );
}

/// A proxy's request without `:authority`: the static name of `host`, and an entry of its own.
#[test]
fn host() {
    check(
        &mut fresh(),
        &["8386 6604 6361 7274", "8386 be", "8386 be 4104 7368 6f70"],
        &expect![[r#"
            host=cart; 1 entries, 40 bytes
            host=cart; 1 entries, 40 bytes
            authority=shop host=cart; 2 entries, 86 bytes
        "#]],
    );
}

/// RFC 7541 appendix C.3 and C.4: three requests on one connection, plain and Huffman-coded.
#[test]
fn requests() {
    let expected = expect![[r#"
        authority=www.example.com; 1 entries, 57 bytes
        authority=www.example.com; 2 entries, 110 bytes
        method=index.html authority=www.example.com; 3 entries, 164 bytes
    "#]];
    check(
        &mut fresh(),
        &[
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        &expected,
    );
    check(
        &mut fresh(),
        &[
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
        &expected,
    );
}

/// RFC 7541 appendix C.5 and C.6: three responses with a table of 256 bytes, so that entries are evicted.
#[test]
fn responses() {
    let expected = expect![[r#"
        http=302; 4 entries, 222 bytes
        http=307; 4 entries, 222 bytes
        http=200; 3 entries, 215 bytes
    "#]];
    let mut table = fresh();
    table.resize(256);
    check(
        &mut table,
        &[
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32
             3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970
             7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61
             6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ],
        &expected,
    );
    let mut table = fresh();
    table.resize(256);
    check(
        &mut table,
        &[
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad
             1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2
             e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ],
        &expected,
    );
}

fn literal(name: &str, value: &str) -> String {
    let mut text = format!("40{:02x}", name.len());
    for byte in name.bytes() {
        text += &format!("{byte:02x}");
    }
    text += &format!("{:02x}", value.len());
    for byte in value.bytes() {
        text += &format!("{byte:02x}");
    }
    text
}

/// Joined late, entries that were inserted before have a number that stays while others come in, and what is
/// inserted from now on is right.
#[test]
fn joined_late() {
    check(
        &mut Hpack::default(),
        &[
            // grpc-go: POST, http, unseen path, unseen authority.
            "83 86 c5 c4",
            // One insertion later the same entries have an index one higher.
            &format!("{} 83 86 c6 c5", literal("grpc-timeout", "5S")),
            // The inserted one is known.
            "83 86 c6 c5 be",
            // A second path.
            "83 86 c7 c5",
            // Netty and gRPC C++: authority and path in either order, both before POST.
            "c5 c6 83 86",
            // The path is spelled again.
            &format!("83 86 44 04 2f612f62 {}", "c6"),
            "83 86 be c7",
        ],
        &expect![[r#"
            entry=0:8 unseen=2; 0 entries, 0 bytes
            entry=0:8 timeout=5000000000 unseen=2; 1 entries, 46 bytes
            entry=0:8 timeout=5000000000 unseen=2; 1 entries, 46 bytes
            entry=0:9 unseen=2; 1 entries, 46 bytes
            entry=0:7|0:8 unseen=2; 1 entries, 46 bytes
            method=a/b unseen=1; 2 entries, 87 bytes
            method=a/b unseen=1; 2 entries, 87 bytes
        "#]],
    );
}

/// On a connection seen from its start an index that nothing was inserted for is an error; after a loss it is
/// an unseen entry of another epoch.
#[test]
fn lost_state() {
    let mut table = fresh();
    check(
        &mut table,
        &["83 86 44 04 2f612f62", "be", "bf"],
        &expect![[r#"
            method=a/b; 1 entries, 41 bytes
            method=a/b; 1 entries, 41 bytes
            broken=; 1 entries, 41 bytes
        "#]],
    );
    table.lose();
    check(
        &mut table,
        &["83 be", &literal("grpc-status", "14"), "be"],
        &expect![[r#"
            entry=1:1 unseen=1; 0 entries, 0 bytes
            status=14; 1 entries, 45 bytes
            status=14; 1 entries, 45 bytes
        "#]],
    );
}

/// An entry larger than the table empties it. Who joined late cannot know the table's size, so what was before
/// is forgotten, and what comes after is right whether or not the entry was inserted.
#[test]
fn entry_larger_than_the_table() {
    let blocks = ["83 86 44 04 2f612f62", "3f 01", &literal("x", "yyyyyyyyyy"), "83 86 44 04 2f612f63", "be"];
    check(
        &mut fresh(),
        &blocks,
        &expect![[r#"
            method=a/b; 1 entries, 41 bytes
            ; 0 entries, 0 bytes
            ; 0 entries, 0 bytes
            method=a/c; 0 entries, 0 bytes
            broken=; 0 entries, 0 bytes
        "#]],
    );
    let large = "z".repeat(120);
    let many: Vec<String> = (0..4).map(|n| literal("x", &format!("{large}{n}"))).collect();
    let mut late = Hpack::default();
    late.resize(100);
    check(
        &mut late,
        &["83 86 44 04 2f612f62", &many[0], "83 86 44 04 2f612f63", "83 86 be", "83 86 bf"],
        &expect![[r#"
            method=a/b; 1 entries, 41 bytes
            ; 0 entries, 0 bytes
            method=a/c; 1 entries, 41 bytes
            method=a/c; 1 entries, 41 bytes
            entry=1:1 unseen=1; 1 entries, 41 bytes
        "#]],
    );
}

/// A name in an entry that was not seen: the value is nobody's.
#[test]
fn unknown_name_stays_unknown() {
    check(
        &mut Hpack::default(),
        &["83 86 7e 04 2f612f62", "be", &format!("{} 88 5f 10 6170706c69636174696f6e2f67727063", "20")],
        &expect![[r#"
            unseen=1; 1 entries, 36 bytes
            unseen=1; 1 entries, 36 bytes
            http=200 grpc=true; 0 entries, 0 bytes
        "#]],
    );
}

#[test]
fn values_that_calls_need() {
    let mut blocks = vec![literal("grpc-timeout", "100m"), literal("grpc-timeout", "123456789m")];
    blocks.push(literal("grpc-encoding", "gzip"));
    blocks.push(literal("grpc-previous-rpc-attempts", "2"));
    blocks.push(literal("grpc-status", "x"));
    blocks.push(literal(":path", "no-slash"));
    blocks.push(literal(":path", "/a/b?token=secret"));
    blocks.push(literal("content-type", "text/html"));
    let blocks: Vec<&str> = blocks.iter().map(String::as_str).collect();
    check(
        &mut fresh(),
        &blocks,
        &expect![[r#"
            timeout=100000000; 1 entries, 48 bytes
            ; 2 entries, 102 bytes
            encoding=gzip; 3 entries, 151 bytes
            attempts=2; 4 entries, 210 bytes
            ; 5 entries, 254 bytes
            ; 6 entries, 299 bytes
            method=a/b; 7 entries, 353 bytes
            grpc=false; 8 entries, 406 bytes
        "#]],
    );
}

proptest! {
    #[test]
    fn any_bytes(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20), whole: bool) {
        let mut table = if whole { fresh() } else { Hpack::default() };
        let mut names = Names::default();
        for block in blocks {
            if table.read(&block, &mut names, &mut Fields::default()).is_err() {
                table.lose();
            }
            prop_assert!(table.size <= MAX_TABLE);
            prop_assert_eq!(table.size, table.entries.iter().map(|entry| entry.size).sum::<u64>());
        }
    }
}
