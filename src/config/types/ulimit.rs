//! `ulimit`: a name with `soft[:hard]`, integers both.

/// One limit of a container's processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    pub name: String,
    pub soft: i64,
    /// The soft one where the file has none.
    pub hard: i64,
}

impl Ulimit {
    /// Reads the value of one entry. -1 is unlimited.
    pub fn parse(name: &str, limits: &str) -> Result<Self, UlimitError> {
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |text: &str| text.parse::<i64>().map_err(|_| UlimitError::Number { found: text.to_owned() });
        let (soft, hard) = (number(soft)?, number(hard)?);
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(UlimitError::Order { soft, hard });
        }
        Ok(Self { name: name.to_owned(), soft, hard })
    }
}

/// Why a text is no limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UlimitError {
    #[error("{found:?} is no integer")]
    Number { found: String },
    #[error("the soft limit {soft} is above the hard one {hard}")]
    Order { soft: i64, hard: i64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_is_both_limits() {
        for (text, soft, hard) in [("1024", 1024, 1024), ("1024:4096", 1024, 4096), ("-1", -1, -1), ("5:-1", 5, -1)] {
            assert_eq!(Ulimit::parse("nofile", text), Ok(Ulimit { name: "nofile".into(), soft, hard }));
        }
    }

    #[test]
    fn words_and_reversed_limits_are_refused() {
        assert_eq!(Ulimit::parse("core", "unlimited"), Err(UlimitError::Number { found: "unlimited".into() }));
        assert_eq!(Ulimit::parse("core", "1:2:3"), Err(UlimitError::Number { found: "2:3".into() }));
        assert_eq!(Ulimit::parse("core", "2:1"), Err(UlimitError::Order { soft: 2, hard: 1 }));
        assert_eq!(Ulimit::parse("core", "-1:1"), Err(UlimitError::Order { soft: -1, hard: 1 }));
    }
}
