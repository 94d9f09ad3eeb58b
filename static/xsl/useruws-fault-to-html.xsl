<?xml version="1.0" encoding="UTF-8"?>
<!-- An error as a page. -->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:f="urn:uwsd:fault"
    exclude-result-prefixes="f">

  <xsl:import href="page.xsl"/>

  <xsl:template match="/f:fault">
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="concat(@status, ' ', @reason)"/>
      <xsl:with-param name="root" select="string(@root)"/>
      <xsl:with-param name="main">
        <h1><xsl:value-of select="concat(@reason, ' (', @status, ')')"/></h1>
        <div class="error">
          <p><xsl:value-of select="."/></p>
          <p class="faint"><xsl:value-of select="@name"/></p>
        </div>
        <xsl:if test="@status = 401"><p><a href="{@root}login?next={@asked}">Log in</a></p></xsl:if>
        <xsl:if test="@job"><p><a href="{@job}">Back to the job</a></p></xsl:if>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

</xsl:stylesheet>
