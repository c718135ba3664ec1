//! The plot: a panel for each load, a bar for each server.

use std::fmt::Write as _;

use super::report::{Results, median};

const PANEL: usize = 340;
const LABELS: usize = 100;
const BAR: usize = 18;
const GAP: usize = 6;
const COLUMNS: usize = 2;

/// Draws the CPU time per request; less is better. Each panel has its own scale.
pub fn svg(results: &Results, control: &str) -> String {
    let mut loads: Vec<&str> = results.rows.iter().map(|row| row.load.as_str()).collect();
    loads.dedup();
    let most_bars = loads.iter().map(|load| bars(results, load).len()).max().unwrap_or_default();
    let height = 50 + most_bars * (BAR + GAP);
    let whole = (COLUMNS * PANEL, 40 + loads.len().div_ceil(COLUMNS) * height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"15\" font-weight=\"bold\">CPU microseconds per request, under {control}</text>\n",
        whole.0, whole.1
    );
    for (at, load) in loads.iter().enumerate() {
        let (left, top) = (at % COLUMNS * PANEL + 16, 40 + at / COLUMNS * height);
        let _ = writeln!(svg, "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{load}</text>", top + 18);
        panel(&mut svg, &bars(results, load), left, top + 28);
    }
    svg + "</svg>\n"
}

fn bars<'a>(results: &'a Results, load: &str) -> Vec<(&'a str, f64)> {
    let rows = results.rows.iter().filter(|row| row.load == load);
    let cpu = |row: &'a super::report::Row| median(row.rounds.iter().map(|figures| figures.cpu_microseconds));
    rows.filter_map(|row| Some((row.server, cpu(row)?))).collect()
}

fn panel(svg: &mut String, bars: &[(&str, f64)], left: usize, top: usize) {
    let most = bars.iter().map(|(_, cpu)| *cpu).fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(u16::try_from(PANEL - LABELS - 80).unwrap_or(u16::MAX));
    for (at, (server, cpu)) in bars.iter().enumerate() {
        let (x, y) = (left + LABELS, top + at * (BAR + GAP));
        let wide = cpu / most * room;
        // The lower bounds, Peerage, the other caches.
        let colour = match *server {
            "floor" | "bare hyper" => "#b8bcc2",
            "peerage" | "through a peer" => "#1f5fa8",
            _ => "#6d7681",
        };
        let text = y + BAR - 5;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{server}</text>\
             <rect x=\"{x}\" y=\"{y}\" width=\"{wide:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{cpu:.1}</text>",
            x - 6,
            f64::from(u16::try_from(x + 6).unwrap_or(u16::MAX)) + wide
        );
    }
}
