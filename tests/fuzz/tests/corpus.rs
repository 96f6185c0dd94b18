//! Every committed input passes its target: those that once broke something, and those that reach far.

use faultline_fuzz::TARGETS;
use std::path::Path;

#[test]
fn every_input_of_the_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let folder = corpus.join(name);
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut inputs = 0;
        for entry in entries {
            let path = entry.expect("an entry").path();
            let input = std::fs::read(&path).expect("a readable input");
            let passed = std::panic::catch_unwind(|| target(&input));
            assert!(passed.is_ok(), "{} breaks {name}", path.display());
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
}
