//! Findings: what is wrong, or worth knowing, in a document. Every finding, not the first.

use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The document cannot be used.
    Error,
    /// It can be used, and somebody should look.
    Warning,
    /// Worth knowing.
    Note,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, as a path into the document: `route[0] "resnet50" batch 4: step[3]`.
    pub component: String,
    /// What was expected and what was found.
    pub message: String,
}

impl Finding {
    /// An error.
    pub fn error(component: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, component: component.into(), message: message.into() }
    }

    /// A warning.
    pub fn warning(component: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, component: component.into(), message: message.into() }
    }

    /// A note.
    pub fn note(component: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, component: component.into(), message: message.into() }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.component, self.message)
    }
}

/// Whether any finding is an error.
pub fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.severity == Severity::Error)
}
