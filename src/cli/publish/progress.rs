//! The progress of `peerage publish` on standard error.

use std::cell::Cell;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::manifest::Asset;

/// Formats a size for people, in binary units.
pub(super) fn shown(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// Shows the progress: a bar on a terminal, lines elsewhere.
pub(super) struct Progress {
    /// Counts bytes; hidden if standard error is not a terminal.
    pub(super) bar: ProgressBar,
    /// Files done in this phase.
    done: Cell<usize>,
    /// Files of this phase.
    files: Cell<usize>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes}, {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, done: Cell::new(0), files: Cell::new(0) }
    }

    /// Starts a phase over that many files and bytes.
    pub(super) fn begin(&self, phase: &'static str, files: usize, bytes: u64) {
        self.done.set(0);
        self.files.set(files);
        self.bar.set_prefix(phase);
        self.bar.set_message(format!("0/{files} files"));
        self.bar.set_length(bytes);
        self.bar.set_position(0);
    }

    pub(super) fn file_done(&self) {
        self.done.set(self.done.get() + 1);
        self.bar.set_message(format!("{}/{} files", self.done.get(), self.files.get()));
    }

    /// Prints a line for a stored file, unless there is a bar.
    pub(super) fn stored(&self, asset: &Asset) {
        if self.bar.is_hidden() {
            self.print(&format!("stored    {} ({})", asset.name, shown(asset.size)));
        }
    }

    /// Prints a line, above the bar if there is one.
    pub(super) fn print(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}
