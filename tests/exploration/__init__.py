"""The machine and the verdict, explored to a stated bound."""
