//! `--show`: the ranks whose output is printed.

/// Ranks whose output is on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// Every rank's.
    All,
    /// These ranks'; none's, if it is empty.
    Only(Vec<usize>),
}

impl Show {
    /// Whether the rank's output is on the screen.
    pub fn has(&self, rank: usize) -> bool {
        match self {
            Self::All => true,
            Self::Only(ranks) => ranks.contains(&rank),
        }
    }
}

impl std::str::FromStr for Show {
    type Err = String;

    /// `all`, `none`, or ranks: `0,1`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "all" => Ok(Self::All),
            "none" => Ok(Self::Only(Vec::new())),
            ranks => {
                let rank = |rank: &str| rank.trim().parse().map_err(|_| "expected all, none, or ranks such as 0,1");
                Ok(Self::Only(ranks.split(',').map(rank).collect::<Result<_, _>>()?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn show_takes_a_word_or_a_list_of_ranks() {
        let parse = |text: &str| text.parse::<Show>();
        assert_eq!(parse("all"), Ok(Show::All));
        assert_eq!(parse("none"), Ok(Show::Only(vec![])));
        assert_eq!(parse("0, 2"), Ok(Show::Only(vec![0, 2])));
        assert!(parse("first").is_err() && parse("").is_err());
    }
}
