//! `completions` and `man`: made from the same definitions as the parser.

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Context;
use crate::cli::Cli;
use crate::error::Exit;

/// `punctual completions SHELL`.
///
/// # Errors
/// Writing.
pub fn completions(context: &Context, shell: Shell) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "punctual", &mut script);
    context.out.bytes(&script)?;
    Ok(Exit::Ok as u8)
}

/// `punctual man`: the page of the program, then one of each command.
///
/// # Errors
/// Writing.
pub fn man(context: &Context) -> anyhow::Result<u8> {
    let mut program = Cli::command();
    program.build();
    let mut pages = Vec::new();
    render(&program, &mut pages)?;
    context.out.bytes(&pages)?;
    Ok(Exit::Ok as u8)
}

fn render(command: &Command, pages: &mut Vec<u8>) -> anyhow::Result<()> {
    Man::new(command.clone()).render(pages)?;
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for command in command.get_subcommands().filter(shown) {
        render(command, pages)?;
    }
    Ok(())
}
