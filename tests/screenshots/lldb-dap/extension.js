// What the extension LLDB DAP does at its core: the adapter is a program that speaks DAP on its standard streams, and a
// configuration can name it. Its path is absolute, as lldb-dap starts itself again for `runInTerminal` and takes the name it was
// called by for a path.
const vscode = require("vscode");

exports.activate = (context) => {
  const program = process.env.LLDB_DAP || "/usr/bin/lldb-dap-19";
  context.subscriptions.push(
    vscode.debug.registerDebugAdapterDescriptorFactory("lldb-dap", {
      createDebugAdapterDescriptor: ({ configuration }) =>
        new vscode.DebugAdapterExecutable(
          configuration.debugAdapterExecutable || program,
          configuration.debugAdapterArgs || [],
        ),
    }),
  );
};
