//! The measurements, round by round, and their tables.

use std::path::PathBuf;

use serde::Serialize;

/// The figures of one cache under one load in one round. A figure that a tool does not print is
/// `None`.
#[derive(Serialize, Clone, Copy, Default)]
pub struct Figures {
    /// CPU time of all the cache's processes, in user and system mode.
    pub cpu_microseconds: f64,
    pub requests_per_second: f64,
    pub bytes_per_second: Option<f64>,
    /// At full speed.
    pub p50_milliseconds: Option<f64>,
    pub p99_milliseconds: Option<f64>,
    /// At a rate that is the same for all caches.
    pub paced_p50_milliseconds: Option<f64>,
    pub paced_p99_milliseconds: Option<f64>,
}

#[derive(Serialize)]
pub struct Row {
    pub load: String,
    pub server: &'static str,
    pub rounds: Vec<Figures>,
}

#[derive(Serialize, Default)]
pub struct Results {
    pub rows: Vec<Row>,
}

impl Results {
    /// Returns the rounds of a server under a load, in order.
    pub fn rounds(&mut self, load: &str, server: &'static str) -> &mut Vec<Figures> {
        let found = self.rows.iter().position(|row| row.load == load && row.server == server);
        let at = found.unwrap_or_else(|| {
            self.rows.push(Row { load: load.to_owned(), server, rounds: Vec::new() });
            self.rows.len() - 1
        });
        &mut self.rows[at].rounds
    }

    pub fn figures(&self, load: &str, server: &str, figure: fn(&Figures) -> f64) -> Vec<f64> {
        let row = self.rows.iter().find(|row| row.load == load && row.server == server);
        row.map(|row| row.rounds.iter().map(figure).collect()).unwrap_or_default()
    }

    /// Returns for each round the ratio of a server's figure to that of another one; empty if one of
    /// them was not measured.
    pub fn ratios(&self, load: &str, server: &str, other: &str, figure: fn(&Figures) -> f64) -> Vec<f64> {
        let others = self.figures(load, other, figure);
        self.figures(load, server, figure).into_iter().zip(others).map(|(own, other)| own / other).collect()
    }

    /// Returns the server with the least median. (The least figure of each round would favour luck: of
    /// three equally fast servers, none has a median as good as that.)
    pub fn best<'a>(&self, load: &str, servers: &[&'a str], figure: fn(&Figures) -> f64) -> Option<&'a str> {
        let median = |server: &str| median(self.figures(load, server, figure).into_iter());
        let medians = servers.iter().filter_map(|server| Some((*server, median(server)?)));
        medians.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(server, _)| server)
    }

    /// Prints all rows as Markdown, each figure the median of its rounds.
    pub fn print(&self) {
        println!(
            "| load | server | CPU µs a request | requests/s | MB/s | p50 ms | p99 ms | p50 ms at the rate | p99 ms at the rate |\n\
             |---|---|---:|---:|---:|---:|---:|---:|---:|"
        );
        for row in &self.rows {
            let median = |figure: fn(&Figures) -> Option<f64>| median(row.rounds.iter().filter_map(figure));
            let cells = [
                shown(median(|figures| Some(figures.cpu_microseconds)), 1),
                shown(median(|figures| Some(figures.requests_per_second)), 0),
                shown(median(|figures| figures.bytes_per_second).map(|bytes| bytes / 1e6), 0),
                shown(median(|figures| figures.p50_milliseconds), 2),
                shown(median(|figures| figures.p99_milliseconds), 2),
                shown(median(|figures| figures.paced_p50_milliseconds), 3),
                shown(median(|figures| figures.paced_p99_milliseconds), 3),
            ];
            println!("| {} | {} | {} |", row.load, row.server, cells.join(" | "));
        }
    }
}

/// An upper bound of a ratio, and the measured ratios.
#[derive(Serialize)]
pub struct Goal {
    pub of: String,
    pub at_most: f64,
    /// The median, the minimum and the maximum of the rounds' ratios.
    pub measured: Option<[f64; 3]>,
}

impl Goal {
    pub fn new(of: &str, at_most: f64, ratios: &[f64]) -> Self {
        let measured = median(ratios.iter().copied()).map(|median| {
            let fold = |with: fn(f64, f64) -> f64| ratios.iter().copied().reduce(with).unwrap_or_default();
            [median, fold(f64::min), fold(f64::max)]
        });
        Self { of: of.to_owned(), at_most, measured }
    }

    /// Prints them as Markdown. Nothing is asserted, since machines differ.
    pub fn print(goals: &[Self]) {
        println!("\n| ratio, median of the rounds | goal | measured | least to most | |\n|---|---:|---:|---:|---|");
        for Self { of, at_most, measured } in goals {
            match measured {
                Some([median, least, most]) => {
                    let met = if median <= at_most { "met" } else { "missed" };
                    println!("| {of} | {at_most:.2} | {median:.2} | {least:.2} to {most:.2} | {met} |");
                }
                None => println!("| {of} | {at_most:.2} | - | - | not measured |"),
            }
        }
    }
}

/// Returns the load average of the last minute: the work of other processes.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

pub fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

pub fn shown(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
}

/// Writes a file to `target/bench-peers`, and prints its path.
pub fn save(name: &str, contents: &str) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench-peers");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(name);
    std::fs::write(&file, contents).unwrap();
    println!("{}", file.display());
}
