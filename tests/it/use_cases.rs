//! The use cases: their scripts, run as users run them, and their pages, which quote the scripts.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::BINARY;
use crate::programs::require;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/uses");

/// Runs a script that needs the programs `needed`.
fn run_script(script: &str, needed: &[&str]) {
    require(needed);
    let stage = tempfile::tempdir().unwrap();
    // It signals the whole process group, so that no process outlives a script that hangs.
    let output = Command::new("timeout")
        .args(["--kill-after=10", "300", "bash"])
        .arg(Path::new(FOLDER).join(script))
        .env("PEERAGE", BINARY)
        .env("TMPDIR", stage.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}: {}\n{said}\n{errors}", output.status);
    assert!(said.ends_with("All checks passed.\n"), "{said}");
    let left: Vec<_> = std::fs::read_dir(stage.path()).unwrap().collect();
    assert!(left.is_empty(), "{script} has left {left:?}");
}

#[test]
#[ignore = "needs curl and python3"]
fn blobs_have_the_bytes_that_their_names_promise() {
    run_script("blobrefs.sh", &["bash", "curl", "python3"]);
}

#[test]
#[ignore = "needs curl and python3"]
fn a_site_is_deployed_and_nothing_is_purged() {
    run_script("assets.sh", &["bash", "curl", "python3"]);
}

#[test]
#[ignore = "needs curl, docker-registry and skopeo"]
fn an_image_is_fetched_from_its_registry_once() {
    run_script("registry.sh", &["bash", "curl", "docker-registry", "skopeo"]);
}

#[test]
#[ignore = "needs curl, python3, dpkg-deb, apt-get and apt-ftparchive"]
fn a_package_is_fetched_from_its_repository_once() {
    run_script("apt.sh", &["bash", "curl", "python3", "dpkg-deb", "apt-get", "apt-ftparchive"]);
}

/// Returns the lines of the shell and configuration blocks of a page.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    page.lines().map(str::trim).filter(move |line| {
        let fence = line.starts_with("```");
        inside = if fence { !inside && matches!(*line, "```sh" | "```toml") } else { inside };
        inside && !fence && !line.is_empty()
    })
}

#[test]
fn the_pages_quote_their_scripts() {
    for (page, scripts) in [
        ("blobrefs.md", &["blobrefs.sh"][..]),
        ("assets.md", &["assets.sh"]),
        ("content-store.md", &["registry.sh", "apt.sh"]),
    ] {
        let read = |name: &str| std::fs::read_to_string(Path::new(FOLDER).join(name)).unwrap();
        let (page_text, text) = (read(page), scripts.iter().map(|name| read(name)).collect::<String>());
        assert!(quoted(&page_text).count() > 5);
        for line in quoted(&page_text) {
            let is_script = scripts.iter().any(|name| line == format!("docs/uses/{name}"));
            assert!(is_script || text.contains(line), "{page} quotes a line that is not in {scripts:?}:\n{line}");
        }
    }
}

#[test]
fn every_use_is_in_the_readme() {
    let readme = std::fs::read_to_string(Path::new(FOLDER).join("../../README.md")).unwrap();
    let pages = std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path());
    for page in pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(readme.contains(&format!("](docs/uses/{name})")), "{name}");
    }
}
