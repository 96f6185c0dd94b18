//! The grpc-java service: jars by Maven, classes by javac, an archive of loaded classes by the JVM itself, so that
//! a service starts in half the time.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;

use super::setup::step;

/// Its sources.
pub(super) const FILES: &[(&str, &str)] = &[
    ("Address.java", include_str!("../../stacks/java/Address.java")),
    ("Backend.java", include_str!("../../stacks/java/Backend.java")),
    ("Behaviour.java", include_str!("../../stacks/java/Behaviour.java")),
    ("Breaker.java", include_str!("../../stacks/java/Breaker.java")),
    ("Bytes.java", include_str!("../../stacks/java/Bytes.java")),
    ("Cache.java", include_str!("../../stacks/java/Cache.java")),
    ("Door.java", include_str!("../../stacks/java/Door.java")),
    ("LeakedConnections.java", include_str!("../../stacks/java/LeakedConnections.java")),
    ("LeakedMemory.java", include_str!("../../stacks/java/LeakedMemory.java")),
    ("Lines.java", include_str!("../../stacks/java/Lines.java")),
    ("Link.java", include_str!("../../stacks/java/Link.java")),
    ("Method.java", include_str!("../../stacks/java/Method.java")),
    ("Misbehaviour.java", include_str!("../../stacks/java/Misbehaviour.java")),
    ("Peer.java", include_str!("../../stacks/java/Peer.java")),
    ("Postgres.java", include_str!("../../stacks/java/Postgres.java")),
    ("Redis.java", include_str!("../../stacks/java/Redis.java")),
    ("Rehearsal.java", include_str!("../../stacks/java/Rehearsal.java")),
    ("SentCall.java", include_str!("../../stacks/java/SentCall.java")),
    ("ServedCall.java", include_str!("../../stacks/java/ServedCall.java")),
    ("Service.java", include_str!("../../stacks/java/Service.java")),
    ("Spec.java", include_str!("../../stacks/java/Spec.java")),
    ("Work.java", include_str!("../../stacks/java/Work.java")),
    ("pom.xml", include_str!("../../stacks/java/pom.xml")),
];

/// The archive of classes is for this JVM only.
pub(super) const VERSIONS: &[&[&str]] = &[&["java", "--version"]];

/// What it needs from Debian.
pub(super) const PACKAGES: &str = "default-jdk-headless maven";

/// The class with the service's `main`.
pub(super) const SERVICE: &str = "playground.Service";

/// The file with the JVM's flags, one a line.
pub(super) const ARGUMENTS: &str = "arguments";

/// Flags for a small process that starts quickly; many run on one machine.
const FLAGS: &str = "\
-XX:+UseSerialGC
-XX:TieredStopAtLevel=1
-XX:-UsePerfData
-Xss256k
-Xms16m
-Xmx256m
-XX:ReservedCodeCacheSize=32m
-Dio.netty.allocator.numDirectArenas=1
-Dio.netty.allocator.numHeapArenas=1
-Dio.netty.allocator.maxOrder=5
# What leaks lies outside the heap; the cgroup is its bound, and a process without memory ends.
-XX:MaxDirectMemorySize=64g
-XX:+ExitOnOutOfMemoryError
# The loop that work is counted in is compiled before it is measured.
-XX:CompileCommand=quiet
-XX:CompileCommand=BackgroundCompilation,playground.Work::rounds,false
# Standard output is for `ready` only.
-Xlog:disable
-Xlog:all=error:stderr
-Xshare:auto
";

/// Builds the service in a folder that has its sources.
pub(super) fn install(folder: &Path) -> anyhow::Result<()> {
    step(
        folder,
        "mvn",
        &[
            "--quiet",
            "--batch-mode",
            "-Dstyle.color=never",
            "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies",
            "-DincludeScope=runtime",
            "-DoutputDirectory=jars",
        ],
    )?;
    let sources: String = FILES
        .iter()
        .filter(|(name, _)| name.ends_with(".java"))
        .map(|(name, _)| format!("{name}\n"))
        .collect();
    std::fs::write(folder.join("sources"), sources)?;
    step(folder, "javac", &["-d", "classes", "-classpath", "jars/*", "@sources"])?;
    step(folder, "jar", &["--create", "--file", "service.jar", "-C", "classes", "."])?;
    std::fs::write(folder.join(ARGUMENTS), arguments(folder, false)?)?;
    let rehearsal = format!("@{ARGUMENTS}");
    step(folder, "java", &[&rehearsal, "-XX:ArchiveClassesAtExit=classes.jsa", "playground.Rehearsal"])?;
    std::fs::write(folder.join(ARGUMENTS), arguments(folder, true)?)?;
    Ok(())
}

/// The flags with the class path, in which an archive knows its jars again, and with the archive.
fn arguments(folder: &Path, archive: bool) -> anyhow::Result<String> {
    let folder = std::path::absolute(folder)?;
    let folder = folder.to_str().context("the cache path is not UTF-8")?;
    let mut jars = vec![format!("{folder}/service.jar")];
    for jar in std::fs::read_dir(format!("{folder}/jars"))? {
        jars.push(jar?.path().to_str().context("a jar's name is not UTF-8")?.to_owned());
    }
    jars.sort();
    // In quotes, a backslash would be an escape.
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\"));
    let mut text = FLAGS.to_owned();
    writeln!(text, "-classpath\n{}", quoted(&jars.join(":")))?;
    if archive {
        writeln!(text, "{}", quoted(&format!("-XX:SharedArchiveFile={folder}/classes.jsa")))?;
    }
    Ok(text)
}
