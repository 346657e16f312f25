//! Schedules as text, one line a tenant:
//!
//! ```text
//! tandem stages 1
//! A: gpu 3 | cpu 4
//! B: cpu 2 | gpu 4
//! ```
//!
//! The first line names the format and its version. Each further line is a tenant in the problem's order: its name, a colon,
//! and its segments stage by stage, each a processor and the position after its last operator; `-` is an empty segment.
//! Blank lines and lines that begin with `#` say nothing. Text is bound to its problem by names and counts, and is checked
//! against it when read.

use std::fmt::Write;

use super::problem::StageProblem;
use super::schedule::{Schedule, ScheduleError, Segment};

const HEAD: &str = "tandem stages 1";

impl Schedule {
    /// Writes the schedule in canonical form.
    pub fn to_text(&self, problem: &StageProblem) -> String {
        let schedule = self.canonical();
        let mut text = format!("{HEAD}\n");
        for (t, tenant) in problem.tenants().iter().enumerate() {
            let one = |k: usize| {
                let segment = schedule.row(t)[k];
                match segment.end as usize == schedule.begin(t, k) {
                    true => "-".to_owned(),
                    false => format!("{} {}", problem.processors()[usize::from(segment.processor)].name, segment.end),
                }
            };
            let segments: Vec<String> = (0..schedule.stages()).map(one).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: {}", tenant.name(), segments.join(" | "));
        }
        text
    }

    /// Reads a schedule of a problem and checks it.
    ///
    /// # Errors
    /// A line that cannot be read, with its number and what was expected; any rule that [`Schedule::check`] knows.
    pub fn parse(text: &str, problem: &StageProblem) -> Result<Self, ScheduleError> {
        let said = |l: &(usize, &str)| !l.1.is_empty() && !l.1.starts_with('#');
        let mut lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())).filter(said);
        let wrong = |line: usize, reason: String| ScheduleError::Text { line, reason };
        match lines.next() {
            Some((_, HEAD)) => {}
            Some((line, found)) => return Err(wrong(line, format!("expected \"{HEAD}\", found \"{found}\""))),
            None => return Err(wrong(1, format!("expected \"{HEAD}\", found nothing"))),
        }
        let mut rows: Vec<Vec<Segment>> = vec![];
        for (line, row) in lines {
            let Some(tenant) = problem.tenants().get(rows.len()) else {
                return Err(wrong(
                    line,
                    format!("a line for each of {} tenants, and one more", problem.tenants().len()),
                ));
            };
            let expected = tenant.name();
            let (name, segments) = row.split_once(':').unwrap_or((row, ""));
            if name.trim_end() != expected {
                return Err(wrong(line, format!("expected tenant \"{expected}\", found \"{name}\"")));
            }
            rows.push(read_row(problem, segments).map_err(|reason| wrong(line, reason))?);
            let (first, found) = (rows[0].len(), rows[rows.len() - 1].len());
            if first != found {
                return Err(ScheduleError::Ragged { tenant: expected.to_owned(), expected: first, found });
            }
        }
        if rows.len() != problem.tenants().len() {
            return Err(ScheduleError::Tenants { expected: problem.tenants().len(), found: rows.len() });
        }
        let schedule = Self::new(&rows)?.canonical();
        schedule.check(problem)?;
        Ok(schedule)
    }
}

fn read_row(problem: &StageProblem, text: &str) -> Result<Vec<Segment>, String> {
    let mut row = vec![];
    let mut last = Segment { end: 0, processor: 0 };
    for part in text.split('|').map(str::trim).filter(|_| !text.trim().is_empty()) {
        if part != "-" {
            let (name, end) =
                part.split_once(' ').ok_or(format!("expected \"PROCESSOR END\" or -, found \"{part}\""))?;
            let q = problem.processors().iter().position(|p| p.name == name);
            let q = q.ok_or(format!("there is no processor \"{name}\""))?;
            let end = end.trim().parse().map_err(|_| format!("expected a position, found \"{end}\""))?;
            if end <= last.end {
                return Err(format!("the segment that ends at {end} begins at {}", last.end));
            }
            last = Segment { end, processor: q as u8 };
        }
        row.push(last);
    }
    Ok(row)
}
